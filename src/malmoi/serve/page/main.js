// The page: one object holds what is shown, everything else draws it.

import * as api from "./api.js";
import { drawBody, drawThread } from "./chat.js";
import { composer } from "./composer.js";
import { fill, h, iconButton } from "./dom.js";
import { setLanguage, t } from "./i18n.js";
import { parametersPage } from "./parameters.js";
import { settingsPanel } from "./settings.js";
import { buildShell, confirmDialog, drawSide, drawTop, keyDialog } from "./shell.js";
import * as storage from "./storage.js";
import { isControl, isPicture, textOf } from "./tokens.js";
import * as tree from "./tree.js";
import { wordPanel } from "./word.js";

const NARROW = matchMedia("(max-width: 800px)");
const KEEP_EVERY = 1000; // ms between writes to the browser's storage while an answer grows

const app = {
  conversations: [],
  conversation: tree.newConversation(),
  model: null,
  settings: storage.preferences().settings ?? {},
  heat: storage.preferences().heat ?? false,
  writing: new Map(), // id of an answer -> what stops it
  word: null, // the opened one: { node, index }
  lastWord: null, // where the preview of the settings looks
  panel: null, // "word" or "settings"
  layersOpen: false,

  get busy() {
    return Object.keys(this.conversation.nodes).some((id) => this.writing.has(id));
  },
  get onParameters() {
    return location.hash === "#/parameters";
  },
  get themeIsOther() {
    const { theme } = document.documentElement.dataset;
    return theme !== undefined && (theme === "dark") !== matchMedia("(prefers-color-scheme: dark)").matches;
  },

  // -- speaking ------------------------------------------------------------------------------------------------------

  send(text, images = []) {
    const parent = tree.path(this.conversation).at(-1)?.id ?? tree.ROOT;
    const node = tree.addNode(this.conversation, parent, "user", text, images.length ? { images } : {});
    this.conversation.spread = null;
    return this.answer(node, { count: this.settings.n ?? 1 });
  },

  edit(node, text) {
    const { images } = node;
    const other = tree.addNode(this.conversation, node.parent, "user", text, images ? { images } : {});
    this.conversation.spread = null;
    return this.answer(other, { count: this.settings.n ?? 1 });
  },

  again(node) {
    return this.answer(this.conversation.nodes[node.parent], { count: this.settings.n ?? 1, fresh: true });
  },

  /** Another token in place of `index`: a new version of the answer that goes on from there. */
  goOn(node, index, other) {
    const instead = node.tokens[index];
    const rank = instead.alternatives.findIndex((each) => each.id === other.id) + 1;
    const probability = Math.exp(other.final_logprob ?? -Infinity);
    const chosen = { ...instead, ...other, rank, probability, chosenByHand: true, seconds: 0, joules: 0 };
    const tokens = [...node.tokens.slice(0, index), chosen];
    const drawn = (node.drawn ?? []).filter((picture) => picture.token <= index);
    const written = this.answer(this.conversation.nodes[node.parent], { tokens, drawn, ended: isControl(other) && !isPicture(other) });
    const [newest] = tree.children(this.conversation, node.parent).slice(-1);
    this.openWord(newest, index);
    return written;
  },

  /** Let the model answer `parent`: `count` answers, each after `tokens`, which stand already. A `fresh` answer does not
   * repeat the seed that was set. */
  async answer(parent, { tokens = [], drawn = [], count = 1, ended = false, fresh = false }) {
    const { conversation } = this;
    const { n, seed, ...settings } = this.settings;
    if (seed !== undefined && !fresh) settings.seed = seed;
    const group = count > 1 ? tree.newId() : null;
    const nodes = Array.from({ length: count }, () =>
      tree.addNode(conversation, parent.id, "assistant", textOf(tokens), { tokens: [...tokens], drawn: [...drawn], settings, group, finish: ended ? "stop" : null }),
    );
    conversation.chosen[parent.id] = nodes[0].id;
    conversation.spread = group;
    if (!this.conversations.includes(conversation)) this.conversations.unshift(conversation);
    storage.prefer({ current: conversation.id });
    const controller = new AbortController();
    if (!ended) for (const node of nodes) this.writing.set(node.id, controller);
    this.closeWord();
    this.draw();
    this.toEnd(true);
    await storage.keepConversation(conversation);
    if (ended) return;
    try {
      const body = { ...settings, messages: tree.messages(conversation, parent) };
      if (count > 1) body.n = count;
      if (tokens.length) body.answer_ids = tokens.map((token) => token.id);
      await this.listen(conversation, nodes, api.streamChat(body, controller.signal), endsInsideCharacter(tokens));
    } catch (error) {
      for (const node of nodes.filter((each) => this.writing.has(each.id))) {
        if (controller.signal.aborted) node.finish = "stopped";
        else node.error = this.explainError(error);
      }
    }
    for (const node of nodes) this.writing.delete(node.id);
    await storage.keepConversation(conversation);
    if (conversation === this.conversation) {
      this.draw();
      this.say(controller.signal.aborted ? t("stopped") : t("finished"), true);
    }
  },

  /** Take in a stream. Where the tokens before it end inside a character, the text is what all bytes make together. */
  async listen(conversation, nodes, chunks, byBytes) {
    let kept = performance.now();
    for await (const chunk of chunks) {
      for (const choice of chunk.choices) {
        const node = nodes[choice.index];
        node.seed = chunk.seed;
        node.tokens.push(...(choice.explain ?? []));
        node.content = byBytes ? textOf(node.tokens) : node.content + (choice.delta.content ?? "");
        for (const { image_url: { url } } of choice.delta.images ?? []) {
          node.drawn.push({ url, at: node.content.length, token: node.tokens.length });
        }
        if (choice.finish_reason) node.finish = choice.finish_reason;
        this.grow(node);
      }
      if (performance.now() - kept > KEEP_EVERY) {
        kept = performance.now();
        storage.keepConversation(conversation);
      }
    }
  },

  stop() {
    for (const id of Object.keys(this.conversation.nodes)) this.writing.get(id)?.abort();
  },

  step(node, by) {
    tree.step(this.conversation, node, by);
    this.conversation.spread = null;
    this.closeWord();
    this.draw();
    storage.keepConversation(this.conversation);
  },

  keep(node) {
    this.conversation.chosen[node.parent] = node.id;
    this.conversation.spread = null;
    this.draw();
    storage.keepConversation(this.conversation);
  },

  // -- conversations -------------------------------------------------------------------------------------------------

  newChat() {
    this.openConversation(tree.newConversation());
    field.focus();
  },

  openConversation(conversation) {
    this.conversation = conversation;
    storage.prefer({ current: conversation.id });
    this.lastWord = null;
    this.closeWord();
    if (this.onParameters) location.hash = "#/";
    if (NARROW.matches) this.toggleSide(false);
    this.draw();
    this.toEnd(true);
  },

  async remove(conversation) {
    if (!(await confirmDialog(t("reallyDelete"), t("delete")))) return;
    for (const id of Object.keys(conversation.nodes)) this.writing.get(id)?.abort();
    this.conversations = this.conversations.filter((each) => each !== conversation);
    await storage.dropConversation(conversation.id);
    if (conversation === this.conversation) this.openConversation(this.conversations[0] ?? tree.newConversation());
    else this.draw();
  },

  // -- settings ------------------------------------------------------------------------------------------------------

  setSettings(settings, redraw = false) {
    this.settings = settings;
    storage.prefer({ settings });
    if (redraw) this.drawPanel();
  },

  setSystem(text) {
    this.conversation.system = text;
    if (Object.keys(this.conversation.nodes).length) storage.keepConversation(this.conversation);
  },

  setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    storage.prefer({ theme });
    this.draw();
  },

  toggleHeat() {
    this.heat = !this.heat;
    storage.prefer({ heat: this.heat });
    this.draw();
  },

  changeLanguage(language) {
    setLanguage(language);
    rebuild();
    this.draw();
    this.drawPanel();
  },

  // -- drawing -------------------------------------------------------------------------------------------------------

  draw() {
    drawSide(this, parts.side);
    drawTop(this, parts.top);
    parts.shell.classList.toggle("heated", this.heat);
    parts.foot.hidden = this.onParameters;
    document.title = this.conversation.title ? `${this.conversation.title} · Malmoi` : "Malmoi 말모이";
    if (this.onParameters) this.drawParameters();
    else drawThread(this, parts.thread);
    update();
  },

  async drawParameters() {
    fill(parts.thread, h("p", { class: "muted" }, "…"));
    try {
      const page = await parametersPage(this);
      if (this.onParameters) fill(parts.thread, page);
    } catch (error) {
      fill(parts.thread, h("p", { class: "error", role: "alert" }, this.explainError(error)));
    }
  },

  /** An answer has grown: its text is drawn anew once a frame. */
  grow(node) {
    if (this.growing?.has(node)) return;
    this.growing ??= new Set();
    if (!this.growing.size) requestAnimationFrame(() => this.drawGrown());
    this.growing.add(node);
  },

  drawGrown() {
    const atEnd = nearEnd();
    for (const node of this.growing) {
      const body = parts.thread.querySelector(`[data-id="${node.id}"] > .body`);
      if (body) drawBody(this, node, body);
    }
    this.growing.clear();
    if (atEnd) this.toEnd();
  },

  toEnd(now = false) {
    if (now || nearEnd(400)) parts.scroll.scrollTop = parts.scroll.scrollHeight;
  },

  openWord(node, index) {
    if (!node?.tokens?.[index]) return;
    for (const old of parts.thread.querySelectorAll(".token.open")) old.classList.remove("open");
    this.word = this.lastWord = { node, index };
    const shown = parts.thread.querySelectorAll(`[data-id="${node.id}"] .token[data-index="${index}"]`);
    for (const each of shown) each.classList.add("open");
    this.showPanel("word");
    if (NARROW.matches) shown[0]?.scrollIntoView({ block: "start" });
    else shown[0]?.scrollIntoView({ block: "nearest" });
  },

  closeWord() {
    this.word = null;
    if (this.panel === "word") this.showPanel(null);
  },

  togglePanel(name) {
    this.showPanel(this.panel === name ? null : name);
  },

  showPanel(name) {
    const wasOpen = this.panel !== null;
    if (name && !wasOpen) this.opener = document.activeElement;
    if (name !== "word" && this.word) {
      this.word = null;
      for (const old of parts.thread.querySelectorAll(".token.open")) old.classList.remove("open");
    }
    this.panel = name;
    this.drawPanel();
    drawTop(this, parts.top);
    if (name && !wasOpen) parts.panel.focus({ preventScroll: true });
    if (!name && wasOpen && this.opener?.isConnected) this.opener.focus({ preventScroll: true });
  },

  async drawPanel() {
    const { panel } = parts;
    const drawn = this.panel;
    panel.hidden = drawn === null;
    parts.shell.classList.toggle("with-panel", drawn !== null);
    if (drawn === null) return;
    const title = drawn === "word" ? t("word") : t("settings");
    panel.setAttribute("aria-label", title);
    const head = h("header", { class: "panel-head" }, h("h2", {}, title), iconButton("close", t("close"), () => this.showPanel(null)));
    const stepped = panel.contains(document.activeElement) ? document.activeElement.dataset.step : null;
    if (drawn === "word") {
      const { scrollTop } = panel;
      fill(panel, head, wordPanel(this, this.word.node, this.word.index));
      panel.scrollTop = scrollTop;
      if (stepped) panel.querySelector(`[data-step="${stepped}"]`)?.focus();
      return;
    }
    fill(panel, head, h("p", { class: "muted" }, "…"));
    try {
      const inside = await settingsPanel(this);
      if (this.panel === drawn) fill(panel, head, inside);
    } catch (error) {
      fill(panel, head, h("p", { class: "error", role: "alert" }, this.explainError(error)));
    }
  },

  toggleSide(open = !parts.shell.classList.contains("side-open")) {
    parts.shell.classList.toggle("side-open", open);
    parts.side.inert = !open;
    if (!NARROW.matches) storage.prefer({ side: open });
  },

  // -- telling -------------------------------------------------------------------------------------------------------

  /** A few words at the foot; `quietly` for those who hear the page only. */
  say(words, quietly = false) {
    parts.status.textContent = words;
    parts.status.classList.toggle("shown", !quietly);
    clearTimeout(this.sayTimer);
    this.sayTimer = setTimeout(() => parts.status.classList.remove("shown"), 2500);
  },

  async copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      this.say(t("copied"));
    } catch (error) {
      this.say(t("failed", { message: error.message }));
    }
  },

  explainError(error) {
    if (error instanceof api.ApiError) {
      if (error.status === 401) keyDialog().then((given) => given && location.reload());
      return error.message;
    }
    return error instanceof TypeError ? t("unreachable") : t("failed", { message: error.message });
  },
};

function endsInsideCharacter(tokens) {
  return textOf(tokens).endsWith("\uFFFD");
}

function nearEnd(distance = 80) {
  const { scrollTop, scrollHeight, clientHeight } = parts.scroll;
  return scrollHeight - scrollTop - clientHeight < distance;
}

let parts;
let field;
let update;

/** Make the frame, in the language of now. */
function rebuild() {
  const made = composer(app);
  const sideOpen = parts ? parts.shell.classList.contains("side-open") : !NARROW.matches && (storage.preferences().side ?? true);
  ({ field, update } = made);
  parts = buildShell(app, made.form);
  fill(document.querySelector("#app"), parts.shell);
  parts.shell.classList.toggle("side-open", sideOpen);
  parts.side.inert = !sideOpen;
}

function onKey(event) {
  const typing = event.target.closest("input, textarea, select, dialog");
  if (event.key === "Escape" && !event.target.closest("dialog")) {
    if (app.busy && (!app.panel || typing)) app.stop();
    else if (app.panel) app.showPanel(null);
    else if (NARROW.matches) app.toggleSide(false);
  } else if (!typing && app.word && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    app.openWord(app.word.node, app.word.index + (event.key === "ArrowLeft" ? -1 : 1));
  }
}

async function begin() {
  const { theme, current } = storage.preferences();
  if (theme) document.documentElement.dataset.theme = theme;
  rebuild();
  app.conversations = await storage.allConversations();
  for (const node of app.conversations.flatMap((each) => Object.values(each.nodes))) {
    if (node.role === "assistant" && node.finish === null && !node.error) node.finish = "stopped"; // the page was left
  }
  app.conversation = app.conversations.find((each) => each.id === current) ?? app.conversation;
  app.draw();
  app.toEnd(true);
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", () => app.draw());
  NARROW.addEventListener("change", () => app.toggleSide(!NARROW.matches));
  if (!NARROW.matches) field.focus();
  try {
    app.model = (await api.get("/v1/models")).data[0];
    app.draw();
  } catch (error) {
    app.say(app.explainError(error));
  }
}

begin();
