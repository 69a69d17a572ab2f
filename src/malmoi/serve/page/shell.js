// What stands around a conversation: the list of conversations, the bar on top, the panel at the side, dialogs.

import { fill, h, icon, iconButton } from "./dom.js";
import { language, t } from "./i18n.js";
import * as storage from "./storage.js";
import * as tree from "./tree.js";

/** The frame of the page; its parts are what the app draws into. */
export function buildShell(app, form) {
  const thread = h("div", { class: "thread" });
  const scroll = h("div", { class: "scroll", tabindex: "-1" }, thread);
  const main = h("main", {}, h("header", { class: "top" }), scroll, h("div", { class: "foot" }, form));
  const side = h("nav", { class: "side", "aria-label": t("conversations") });
  const panel = h("aside", { class: "panel", tabindex: "-1", hidden: true });
  const scrim = h("div", { class: "scrim", onclick: () => app.toggleSide(false) });
  const status = h("div", { class: "toast", role: "status", "aria-live": "polite" });
  const skip = h("a", { class: "skip", href: "#message" }, t("skip"));
  skip.addEventListener("click", (event) => {
    event.preventDefault();
    form.querySelector("textarea").focus();
  });
  const shell = h("div", { class: "shell" }, skip, side, scrim, main, panel, status);
  thread.addEventListener("click", (event) => {
    const token = event.target.closest(".token");
    if (!token || !getSelection().isCollapsed || event.target.closest("a")) return;
    app.openWord(app.conversation.nodes[token.closest(".message").dataset.id], Number(token.dataset.index));
  });
  return { shell, thread, scroll, main, top: main.firstElementChild, side, panel, status, foot: main.lastElementChild };
}

export function drawSide(app, element) {
  const items = app.conversations
    .filter((each) => Object.keys(each.nodes).length)
    .map((each) => {
      const title = each.title || t("untitled");
      const current = each.id === app.conversation.id && !app.onParameters;
      return h(
        "li",
        { class: current ? "current" : null },
        h("button", { type: "button", class: "conversation", "aria-current": current ? "page" : null, onclick: () => app.openConversation(each) }, title),
        iconButton("trash", t("deleteChat", { title }), () => app.remove(each), { class: "tiny" }),
      );
    });
  const dark = matchMedia("(prefers-color-scheme: dark)").matches !== (app.themeIsOther ?? false);
  const other = language() === "en" ? "ko" : "en";
  fill(
    element,
    h(
      "div",
      { class: "brand" },
      h("span", { class: "wordmark small-mark", lang: "ko" }, "말모이"),
      h("span", { class: "brand-latin" }, "Malmoi"),
      iconButton("close", t("close"), () => app.toggleSide(false), { class: "only-phone" }),
    ),
    h("button", { type: "button", class: "new", onclick: () => app.newChat() }, icon("plus"), t("newChat")),
    h("ul", { class: "list" }, items),
    h(
      "div",
      { class: "side-foot" },
      h("a", { class: "side-link", href: "#/parameters", "aria-current": app.onParameters ? "page" : null }, icon("tree"), t("parameters")),
      h(
        "div",
        { class: "side-row" },
        h("button", { type: "button", class: "side-link", lang: other, "aria-label": t("toLanguage"), title: t("toLanguage"), onclick: () => app.changeLanguage(other) }, t("languageName")),
        iconButton(dark ? "sun" : "moon", dark ? t("toLight") : t("toDark"), () => app.setTheme(dark ? "light" : "dark")),
      ),
    ),
  );
}

export function drawTop(app, element) {
  const pressed = (is) => ({ "aria-pressed": String(is) });
  if (app.onParameters) {
    fill(element, iconButton("menu", t("menu"), () => app.toggleSide()), h("a", { class: "back", href: "#/" }, icon("left"), t("backToChat")));
    return;
  }
  const legend = [0, 1, 2, 3, 4].map((level) => h("span", { class: `heat-key heat-${level}` }, ["<½", "<2", "<4", "<7", "7+"][level]));
  fill(
    element,
    iconButton("menu", t("menu"), () => app.toggleSide()),
    h("span", { class: "title" }, app.conversation.title || app.model?.id || ""),
    app.heat ? h("span", { class: "legend-row", role: "img", "aria-label": t("heatLegend"), title: t("heatLegend") }, legend) : null,
    iconButton("heat", t("heat"), () => app.toggleHeat(), { class: "heat-button", ...pressed(app.heat) }),
    exportMenu(app),
    iconButton("sliders", t("settings"), () => app.togglePanel("settings"), { class: "settings-button", ...pressed(app.panel === "settings") }),
  );
}

function exportMenu(app) {
  const menu = h("details", { class: "menu" });
  const item = (words, act) =>
    h("button", { type: "button", onclick: () => ((menu.open = false), act()) }, words);
  const names = { user: t("user"), assistant: t("assistant"), system: t("systemRole"), picture: t("picture") };
  menu.append(
    h("summary", { class: "quiet", "aria-label": t("export"), title: t("export") }, icon("export")),
    h(
      "div",
      { class: "menu-items" },
      item(t("exportMarkdown"), () => download(app, "md", "text/markdown", tree.toMarkdown(app.conversation, names))),
      item(t("exportJson"), () => download(app, "json", "application/json", JSON.stringify({ model: app.model, ...app.conversation }, null, 1))),
    ),
  );
  menu.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false;
  });
  return menu;
}

function download(app, ending, type, text) {
  const name = (app.conversation.title || "malmoi").replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40);
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: `${name}.${ending}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** A question in a dialog; whether it was answered with yes. */
export function confirmDialog(words, yes) {
  return dialog(h("p", {}, words), yes, () => true);
}

/** Ask for the server's API key and keep it; whether one was given. */
export function keyDialog() {
  const field = h("input", { id: "key", type: "password", autocomplete: "off" });
  const inside = [h("h2", {}, t("keyTitle")), h("label", { for: "key" }, t("keyLabel")), field, h("p", { class: "hint" }, t("keyHint"))];
  return dialog(inside, t("send"), () => {
    storage.keepApiKey(field.value.trim());
    return Boolean(field.value.trim());
  });
}

function dialog(inside, yes, act) {
  return new Promise((resolve) => {
    const view = h("dialog", { "aria-label": yes });
    const end = (value) => {
      view.remove();
      resolve(value);
    };
    view.append(
      ...[inside].flat(),
      h(
        "div",
        { class: "edit-actions" },
        h("button", { type: "button", class: "small", onclick: () => end(false) }, t("cancel")),
        h("button", { type: "button", class: "small primary", onclick: () => end(act()) }, yes),
      ),
    );
    view.addEventListener("cancel", () => end(false));
    view.addEventListener("keydown", (event) => event.key === "Enter" && event.target.tagName === "INPUT" && end(act()));
    document.body.append(view);
    view.showModal();
  });
}
