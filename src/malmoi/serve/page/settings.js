// Every setting of generation with its explanation, and what it would do to the very next token.

import * as api from "./api.js";
import { alternativeRows, stageBars } from "./distribution.js";
import { fill, h, iconButton } from "./dom.js";
import { language, settingName, t } from "./i18n.js";
import * as tree from "./tree.js";

const WAIT = 120; // ms after the last move of a slider
const SHOWN = 5; // tokens of the preview
const FIELDS = new Set(["seed", "stop"]); // typed, not slid
const OF_LENGTH = new Set(["max_completion_tokens", "n", "seed", "stop"]); // that do not shape the distribution

/** The panel. `app.settings` holds what differs from the model's own. */
export async function settingsPanel(app) {
  const offered = await api.get(`/inside/settings?lang=${language()}`);
  const preview = h("div", { class: "preview", "aria-live": "off" });
  const renew = debounced(() => drawPreview(app, preview), WAIT);
  const change = (name, value) => {
    const { [name]: old, ...others } = app.settings;
    app.setSettings(value === null ? others : { ...others, [name]: value });
    if (!OF_LENGTH.has(name)) renew();
  };
  const rows = offered.map((setting) => row(app, setting, change));
  drawPreview(app, preview);
  return [
    systemField(app),
    h("section", { class: "preview-section" }, h("h3", {}, t("preview")), h("p", { class: "hint" }, t("previewHint")), preview),
    h("section", { class: "settings" }, h("h3", {}, t("settings")), rows),
    h("button", { type: "button", class: "small wide-button", onclick: () => app.setSettings({}, true) }, t("resetAll")),
  ];
}

function systemField(app) {
  const field = h("textarea", { id: "system", rows: 2, placeholder: t("systemPlaceholder"), value: app.conversation.system });
  field.addEventListener("change", () => app.setSystem(field.value));
  return h("section", {}, h("label", { for: "system", class: "field-name" }, t("system")), field);
}

function row(app, setting, change) {
  const { name, low, high, step } = setting;
  const id = `setting-${name}`;
  const own = Array.isArray(setting.default) ? "" : setting.default;
  const current = app.settings[name];
  const output = h("output", { for: id, class: "value" });
  const reset = iconButton("again", t("reset"), () => put(null), { class: "tiny" });
  const input = FIELDS.has(name)
    ? h("input", { id, type: name === "seed" ? "number" : "text", min: low, max: high, placeholder: t(`placeholder.${name}`) })
    : h("input", { id, type: "range", min: low, max: high, step, "aria-describedby": `${id}-what` });

  const tell = (value) => {
    const shown = value ?? own;
    if (FIELDS.has(name)) input.value = Array.isArray(value) ? value.join(", ") : (value ?? "");
    else input.value = shown ?? (name === "max_completion_tokens" ? high : low);
    output.textContent = FIELDS.has(name) ? "" : (shown ?? t("untilFull"));
    reset.style.setProperty("visibility", value === undefined || value === null ? "hidden" : "visible");
  };
  const put = (value) => {
    tell(value);
    change(name, value);
  };
  input.addEventListener(FIELDS.has(name) ? "change" : "input", () => put(read(name, input.value)));
  tell(current);
  const words = h(
    "details",
    {},
    h("summary", { id: `${id}-what` }, setting.what),
    h("p", {}, h("b", {}, t("why")), " ", setting.why),
    h("p", {}, h("b", {}, t("try")), " ", setting.try),
  );
  return h(
    "div",
    { class: "setting" },
    h("div", { class: "setting-head" }, h("label", { for: id }, settingName(name)), h("code", {}, name), output, reset),
    input,
    words,
  );
}

function read(name, text) {
  if (name === "stop") {
    const stops = text.split(",").map((each) => each.trim()).filter(Boolean);
    return stops.length ? stops : null;
  }
  if (text === "") return null;
  return Number(text);
}

let asked = null;

/** The next token of the conversation as it stands (or of a first message), under the settings. */
async function drawPreview(app, element) {
  asked?.abort();
  asked = new AbortController();
  const { messages, answerIds, words } = place(app);
  try {
    const trace = await api.post("/inside/next", { ...app.settings, messages, answer_ids: answerIds }, asked.signal);
    fill(element, h("p", { class: "preview-place" }, words), alternativeRows(trace, { most: SHOWN }), stageBars(trace, app.settings));
  } catch (error) {
    if (error.name !== "AbortError") fill(element, h("p", { class: "error" }, app.explainError(error)));
  }
}

/** Where the preview looks: at the opened word, else after the last question. */
function place(app) {
  const { conversation } = app;
  if (app.lastWord && conversation.nodes[app.lastWord.node.id]) {
    const { node, index } = app.lastWord;
    const before = node.tokens.slice(0, index);
    const text = before.map((token) => token.text).join("");
    const messages = tree.messages(conversation, conversation.nodes[node.parent]);
    return { messages, answerIds: before.map((token) => token.id), words: t("previewAt", { text: `${text.slice(-40)}` }) };
  }
  const question = tree.path(conversation).findLast((node) => node.role === "user");
  const text = question?.content ?? t("examples")[0];
  const messages = question ? tree.messages(conversation, question) : [{ role: "user", content: text }];
  return { messages, answerIds: [], words: t("previewAfter", { text: text.slice(0, 60) }) };
}

function debounced(act, milliseconds) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, milliseconds);
  };
}
