// Attention and layers: where each head looked when the token was chosen, and what each layer would have said.

import * as api from "./api.js";
import { fill, h } from "./dom.js";
import { t } from "./i18n.js";
import { isControl, percent, spelled, visible } from "./tokens.js";
import * as tree from "./tree.js";

/** Asked for by a button: the server opens the model in torch for it the first time, which takes a while. */
export function layersView(app, node, index) {
  const place = h("div", { class: "layers" });
  const begin = async () => {
    fill(place, h("p", { class: "muted", role: "status" }, t("looking")));
    try {
      const parent = app.conversation.nodes[node.parent];
      const seen = await api.post("/inside/token", {
        messages: tree.messages(app.conversation, parent),
        answer_ids: node.tokens.slice(0, index).map((token) => token.id),
        token: node.tokens[index].id,
      });
      app.layersOpen = true;
      fill(place, lensTable(seen, node.tokens[index]), attention(seen));
    } catch (error) {
      fill(place, h("p", { class: "error", role: "alert" }, app.explainError(error)));
    }
  };
  fill(place, h("button", { type: "button", class: "small wide-button", onclick: begin }, t("lookInside")));
  if (app.layersOpen) begin();
  return h("section", {}, h("h3", {}, t("layers")), h("p", { class: "hint" }, t("layersHint")), place);
}

/** A row for each layer, the last on top: its best guesses, and what it thought of the token that was chosen. */
function lensTable(seen, token) {
  const rows = seen.layers
    .map((layer) => {
      const guesses = layer.guesses.slice(0, 3).map((guess) =>
        h(
          "td",
          { class: guess.id === token.id ? "hit" : null, style: { "--share": guess.probability } },
          h("span", { class: "guess" }, visible(guess.text)),
          h("span", { class: "guess-share" }, percent(guess.probability)),
        ),
      );
      return h("tr", {}, h("th", { scope: "row" }, layer.layer === 0 ? t("embedding") : layer.layer), guesses, h("td", { class: "rank" }, `${layer.rank}`));
    })
    .reverse();
  const head = h("tr", {}, h("th", { scope: "col" }, t("layer")), h("th", { scope: "colgroup", colspan: 3 }, t("wouldSay")), h("th", { scope: "col" }, t("rankOf", { text: spelled(token) })));
  return [
    h("h4", {}, t("lens")),
    h("p", { class: "hint" }, t("lensHint")),
    h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": t("lens") }, h("table", { class: "lens" }, h("thead", {}, head), h("tbody", {}, rows))),
  ];
}

/** A field of heads (a row a layer) to choose from, and the text coloured by where the chosen one looked. */
function attention(seen) {
  const layers = seen.layers.filter((layer) => layer.attention.length);
  if (!layers.length) return null;
  const heads = layers[0].attention.length;
  const text = h("p", { class: "attended" });
  const said = h("p", { class: "hint", role: "status" });
  const buttons = [];
  const show = (layer, head) => {
    const weights = weightsOf(layer, head);
    const most = Math.max(...weights, 1e-9);
    const earlier = head === null ? mean(layer.earlier) : layer.earlier[head];
    const words = seen.tokens.map((token, place) =>
      h("span", { class: isControl(token) ? "seen control" : "seen", title: percent(weights[place]), style: { "--weight": (weights[place] / most) ** 0.6 } }, token.text.replace(/\n/g, "⏎")),
    );
    fill(text, seen.start ? h("span", { class: "muted" }, `… ${percent(earlier)} `) : null, words);
    const best = weights.indexOf(most);
    const name = head === null ? t("allHeads") : t("head", { head: head + 1 });
    fill(said, t("looksAt", { layer: layer.layer, head: name, text: visible(seen.tokens[best]?.text ?? ""), share: percent(weights[best]) }));
    for (const each of buttons) each.setAttribute("aria-pressed", String(each.layer === layer && each.head === head));
  };
  const cell = (layer, head, label, focus) => {
    const button = h("button", { type: "button", class: "head-cell", "aria-label": label, title: label, style: { "--weight": focus }, onclick: () => show(layer, head) });
    button.layer = layer;
    button.head = head;
    buttons.push(button);
    return button;
  };
  const rows = layers.map((layer) =>
    h(
      "div",
      { class: "head-row", style: { "--heads": heads + 1 } },
      h("span", { class: "row-name" }, layer.layer),
      cell(layer, null, `${t("layer")} ${layer.layer}, ${t("allHeads")}`, sharpness(weightsOf(layer, null))),
      layer.attention.map((weights, head) => cell(layer, head, `${t("layer")} ${layer.layer}, ${t("head", { head: head + 1 })}`, sharpness(weights))),
    ),
  );
  show(layers.at(-1), null);
  return [h("h4", {}, t("attention")), h("p", { class: "hint" }, t("attentionHint")), h("div", { class: "heads" }, rows), said, text];
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function weightsOf(layer, head) {
  if (head !== null) return layer.attention[head];
  return layer.attention[0].map((_, place) => mean(layer.attention.map((weights) => weights[place])));
}

/** 1 where all attention lies on one token, 0 where it is spread evenly. */
function sharpness(weights) {
  const entropy = -weights.reduce((sum, weight) => sum + (weight > 0 ? weight * Math.log(weight) : 0), 0);
  return weights.length > 1 ? Math.max(0, 1 - entropy / Math.log(weights.length)) : 1;
}
