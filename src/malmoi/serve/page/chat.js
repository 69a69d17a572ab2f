// The conversation as it is read: messages, their branches, answers side by side, and every token a thing to be opened.

import { fill, h, icon, iconButton } from "./dom.js";
import { t } from "./i18n.js";
import { render } from "./markdown.js";
import { heat, isControl, spans } from "./tokens.js";
import * as tree from "./tree.js";

/** Draw the whole conversation into `element`. */
export function drawThread(app, element) {
  const { conversation } = app;
  const shown = tree.path(conversation);
  if (!shown.length) {
    fill(element, welcome(app));
    return;
  }
  const views = shown.map((node) => {
    const group = tree.together(conversation, node);
    return group.length > 1 && conversation.spread === node.group ? sideBySide(app, group) : message(app, node);
  });
  fill(element, views);
}

function welcome(app) {
  const prompts = t("examples").map((text) =>
    h("button", { type: "button", class: "example", onclick: () => app.send(text) }, text),
  );
  return h(
    "div",
    { class: "welcome" },
    h("p", { class: "wordmark", "aria-hidden": "true" }, "말모이"),
    h("h1", {}, t("welcome")),
    h("p", { class: "muted" }, t("welcomeMore")),
    h("div", { class: "examples" }, prompts),
  );
}

/** Several answers to one question, one of which goes on. */
function sideBySide(app, group) {
  const columns = group.map((node, place) => {
    const keep = h("button", { type: "button", class: "small", onclick: () => app.keep(node) }, icon("check"), t("keep"));
    const view = message(app, node, t("answerOf", { place: place + 1, all: group.length }));
    view.querySelector(".actions").prepend(keep);
    return view;
  });
  return h("div", { class: "columns", role: "group", "aria-label": t("sideBySide") }, columns);
}

function message(app, node, name = t(node.role)) {
  const writing = app.writing.has(node.id);
  const body = h("div", { class: "body" });
  const view = h(
    "article",
    { class: `message ${node.role}`, data: { id: node.id }, "aria-label": name, "aria-busy": writing ? "true" : null },
    h("h2", { class: "visually-hidden" }, name),
    node.images?.length ? h("div", { class: "pictures" }, node.images.map((url) => h("img", { src: url, alt: t("picture") }))) : null,
    body,
    node.error ? h("p", { class: "error", role: "alert" }, node.error) : null,
    actions(app, node, writing),
  );
  drawBody(app, node, body);
  return view;
}

/** The text of a message; of an answer every token is a `.token` that knows its number. */
export function drawBody(app, node, body) {
  if (node.role === "user") {
    fill(body, h("p", { class: "said" }, node.content));
    return;
  }
  if (!node.content && !node.drawn?.length && app.writing.has(node.id)) {
    fill(body, h("p", { class: "waiting" }, h("span", { class: "caret" }), h("span", { class: "visually-hidden" }, t("writing"))));
    return;
  }
  const emit = node.tokens?.length ? tokenEmitter(app, node) : (start, end) => [node.content.slice(start, end)];
  const code = (block, text, language) => codeBlock(app, block, text, language);
  const nodes = tree.parts(node).flatMap(({ url, from, to }) => {
    if (url) return [h("div", { class: "pictures drawn" }, h("img", { src: url, alt: t("drawnPicture") }))];
    return render(node.content.slice(from, to), (start, end) => emit(from + start, from + end), code);
  });
  fill(body, nodes.length ? nodes : h("p", { class: "muted" }, node.error ? "" : t("emptyAnswer")));
  if (app.writing.has(node.id)) (body.lastElementChild ?? body).append(h("span", { class: "caret" }));
}

function tokenEmitter(app, node) {
  const places = spans(node.tokens, node.content.length);
  const open = app.word?.node === node ? app.word.index : -1;
  return (start, end) => {
    const made = [];
    let at = start;
    for (let n = firstAfter(places, start); n < places.length && at < end; n += 1) {
      const [from, to] = places[n];
      if (from >= end) break;
      if (to <= at) continue;
      const upto = Math.min(to, end);
      const classes = `token heat-${heat(node.tokens[n])}${n === open ? " open" : ""}`;
      made.push(h("span", { class: classes, data: { index: n } }, node.content.slice(at, upto)));
      at = upto;
    }
    if (at < end) made.push(node.content.slice(at, end));
    return made;
  };
}

function firstAfter(places, start) {
  let low = 0;
  let high = places.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (places[middle][1] <= start) low = middle + 1;
    else high = middle;
  }
  return low;
}

function codeBlock(app, block, text, language) {
  const copy = iconButton("copy", t("copyCode"), () => app.copy(text));
  return h("div", { class: "code" }, h("div", { class: "code-head" }, h("span", {}, language || t("code")), copy), block);
}

function actions(app, node, writing) {
  const siblings = tree.children(app.conversation, node.parent);
  const place = siblings.indexOf(node);
  const spread = node.group && app.conversation.spread === node.group;
  const parts = [];
  if (siblings.length > 1 && !spread) {
    parts.push(
      h(
        "span",
        { class: "branches" },
        iconButton("left", t("previousBranch"), () => app.step(node, -1), { disabled: place === 0 }),
        h("span", { class: "count", title: t("branches") }, `${place + 1}/${siblings.length}`),
        iconButton("right", t("nextBranch"), () => app.step(node, 1), { disabled: place === siblings.length - 1 }),
      ),
    );
  }
  if (!writing) {
    parts.push(iconButton("copy", t("copy"), () => app.copy(node.content)));
    if (node.role === "user") parts.push(iconButton("edit", t("edit"), () => edit(app, node)));
    else {
      parts.push(iconButton("again", t("again"), () => app.again(node)));
      if (node.tokens?.length) parts.push(iconButton("word", t("openWords"), () => app.openWord(node, 0)));
      const facts = answerFacts(node);
      if (facts) parts.push(h("span", { class: "facts" }, facts));
    }
  }
  return h("div", { class: "actions" }, parts);
}

function answerFacts(node) {
  const tokens = (node.tokens ?? []).filter((token) => !isControl(token));
  const seconds = tokens.reduce((sum, token) => sum + (token.seconds ?? 0), 0);
  if (!tokens.length) return "";
  const parts = [t("tokens", { count: tokens.length })];
  if (seconds > 0) parts.push(t("rate", { rate: (tokens.length / seconds).toFixed(0) }));
  if (node.finish === "length") parts.push(t("cutShort"));
  if (node.finish === "stopped") parts.push(t("stoppedByYou"));
  return parts.join(" · ");
}

/** A message of the person's becomes a field; what is sent from it begins another branch. */
function edit(app, node) {
  const view = document.querySelector(`[data-id="${node.id}"]`);
  const field = h("textarea", { class: "edit", "aria-label": t("edit"), rows: 3 }, node.content);
  const done = () => field.value.trim() && app.edit(node, field.value.trim());
  field.addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      done();
    } else if (event.key === "Escape") {
      event.stopPropagation();
      app.draw();
    }
  });
  const buttons = h(
    "div",
    { class: "edit-actions" },
    h("button", { type: "button", class: "small", onclick: () => app.draw() }, t("cancel")),
    h("button", { type: "button", class: "small primary", onclick: done }, t("send")),
  );
  fill(view, field, buttons);
  view.classList.add("editing");
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}
