// A distribution over the next token, and what each setting made of it.
//
// A trace's alternatives are the model's best; each knows its log-probability before the settings and after every one
// that acted. What is missing from their sum belongs to all other tokens together.

import { h } from "./dom.js";
import { settingName, t } from "./i18n.js";
import { percent, spelled } from "./tokens.js";

const COLOURS = 8; // --c0 to --c7 in the style sheet

const share = (logprob) => (logprob === null || logprob === undefined ? 0 : Math.exp(logprob));
const colour = (place) => ({ "--colour": place < COLOURS ? `var(--c${place})` : "var(--rest)" });

/** The stages of a trace, first the model alone: { name, shares: one for each alternative, moved }. */
export function stages(trace) {
  const first = { name: null, shares: trace.alternatives.map((other) => share(other.logprob)), moved: 0 };
  const later = Object.entries(trace.removed).map(([name, moved]) => ({
    name,
    moved,
    shares: trace.alternatives.map((other) => share(other.after?.[name] ?? null)),
  }));
  return [first, ...later];
}

/** Each stage as a bar of all probability, coloured by alternative; what a setting moved stands beside it. */
export function stageBars(trace, settings = {}) {
  const rows = stages(trace).map(({ name, shares, moved }) => {
    const label = name === null ? t("modelAlone") : settingName(name);
    const value = name !== null && settings[name] !== undefined ? ` ${settings[name]}` : "";
    const parts = shares.map((each, place) =>
      each > 0.001 ? h("span", { class: "part", style: { ...colour(place), "--share": each } }) : null,
    );
    const said = shares.map((each, place) => `${spelled(trace.alternatives[place])} ${percent(each)}`).slice(0, 4);
    return h(
      "li",
      { class: "stage" },
      h(
        "div",
        { class: "stage-head" },
        h("span", { class: "stage-name" }, label, value ? h("b", {}, value) : null),
        name === null ? null : h("span", { class: "moved" }, t("moved", { share: percent(moved) })),
      ),
      h("div", { class: "stack", role: "img", "aria-label": `${label}: ${said.join(", ")}` }, parts),
    );
  });
  return h("ol", { class: "stages" }, rows);
}

/** The alternatives as rows: colour, token, a thin bar before the settings over a full one after them. `choose(other)`
 * makes each of them a button but the one that was `chosen`; `most` bounds their number. */
export function alternativeRows(trace, { chosen = null, choose = null, most = Infinity }) {
  const rows = trace.alternatives.slice(0, most).map((other, place) => {
    const before = share(other.logprob);
    const after = share(other.final_logprob);
    const current = other.id === chosen;
    const inside = [
      h("span", { class: "swatch", style: colour(place), "aria-hidden": "true" }),
      h("span", { class: "alternative-text" }, spelled(other)),
      h(
        "span",
        { class: "bars", "aria-hidden": "true" },
        h("span", { class: "bar before", style: { "--share": before } }),
        h("span", { class: "bar after", style: { ...colour(place), "--share": after } }),
      ),
      h("span", { class: "figure" }, percent(before)),
      h("span", { class: `figure after-figure${after === 0 ? " gone" : ""}` }, percent(after)),
    ];
    const label = t("alternative", { text: spelled(other), before: percent(before), after: percent(after) });
    if (!choose) return h("li", {}, h("div", { class: "alternative" }, inside));
    const properties = { type: "button", class: `alternative${current ? " chosen" : ""}`, disabled: current };
    return h("li", {}, h("button", { ...properties, "aria-label": current ? `${label}. ${t("chosen")}` : `${label}. ${t("goOn")}`, onclick: () => choose(other) }, inside));
  });
  const head = h(
    "div",
    { class: "alternative-head", "aria-hidden": "true" },
    h("span", {}, t("token")),
    h("span", { class: "figure" }, t("before")),
    h("span", { class: "figure" }, t("after")),
  );
  return h("div", { class: "distribution" }, head, h("ol", { class: "alternatives" }, rows));
}
