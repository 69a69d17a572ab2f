// A word opened: how likely it was, what else could have stood there, what each setting did, what the layers saw.

import { alternativeRows, stageBars } from "./distribution.js";
import { h, iconButton } from "./dom.js";
import { t } from "./i18n.js";
import { layersView } from "./layers.js";
import { bits, heat, percent, spelled } from "./tokens.js";

/** The panel of token `index` of `node`. */
export function wordPanel(app, node, index) {
  const token = node.tokens[index];
  const last = node.tokens.length - 1;
  return [
    h(
      "header",
      { class: "word-head" },
      iconButton("left", t("previousWord"), () => app.openWord(node, index - 1), { disabled: index === 0, data: { step: "-1" } }),
      h(
        "div",
        { class: "word-title" },
        h("strong", { class: `word heat-${heat(token)}` }, spelled(token)),
        h("span", { class: "muted" }, t("wordOf", { place: index + 1, all: last + 1 })),
      ),
      iconButton("right", t("nextWord"), () => app.openWord(node, index + 1), { disabled: index === last, data: { step: "1" } }),
    ),
    token.chosenByHand ? h("p", { class: "note" }, t("byHand")) : null,
    figures(token),
    section(t("alternatives"), t("alternativesHint"), alternativeRows(token, { chosen: token.id, choose: (other) => app.goOn(node, index, other) })),
    section(t("whatSettingsDid"), settingsHint(token), stageBars(token, node.settings)),
    layersView(app, node, index),
  ];
}

const settingsHint = (token) => (Object.keys(token.removed).length ? t("settingsHint") : t("noSetting"));

function section(title, hint, ...inside) {
  return h("section", {}, h("h3", {}, title), hint ? h("p", { class: "hint" }, hint) : null, inside);
}

function figures(token) {
  const choices = Math.exp(token.entropy);
  const facts = [
    [t("probability"), percent(Math.exp(token.logprob ?? -Infinity)), t("probabilityHint")],
    [t("rank"), token.rank, t("rankHint")],
    [t("surprise"), t("bits", { bits: bits(token.logprob).toFixed(1) }), t("surpriseHint")],
    [t("entropy"), t("bits", { bits: bits(token.entropy).toFixed(1) }), t("entropyHint", { count: choices < 10 ? choices.toFixed(1) : Math.round(choices) })],
  ];
  const cells = facts.map(([name, value, hint]) =>
    h("div", { class: "fact" }, h("dt", {}, name), h("dd", {}, h("b", {}, value), h("span", { class: "hint" }, hint))),
  );
  const cost = [];
  if (token.seconds) cost.push(t("milliseconds", { count: (1000 * token.seconds).toFixed(token.seconds < 0.01 ? 1 : 0) }));
  if (token.joules) cost.push(t("joules", { count: token.joules.toPrecision(2) }));
  return [h("dl", { class: "facts-grid" }, cells), cost.length ? h("p", { class: "hint cost" }, cost.join(" · ")) : null];
}
