// The four kinds of parameters of the loaded model: learned, positional, configuration, hyperparameters.

import * as api from "./api.js";
import { lineChart } from "./chart.js";
import { h } from "./dom.js";
import { language, number, t } from "./i18n.js";
import { percent } from "./tokens.js";

/** The page about the model. */
export async function parametersPage(app) {
  const found = await api.get(`/inside/parameters?lang=${language()}`);
  return h(
    "div",
    { class: "parameters" },
    h("h1", { tabindex: "-1" }, t("parametersOf", { model: found.model })),
    h("p", { class: "lead" }, t("parametersLead", { total: number(found.total), size: bytes(found.bytes.fp32) })),
    learned(found),
    places(found),
    hyper(found),
    configuration(found),
    app.model ? h("p", { class: "hint" }, t("engineIs", { engine: app.model.engine || "–", hash: (app.model.model_hash || "–").slice(0, 16) })) : null,
  );
}

function card(number_, title, hint, ...inside) {
  return h("section", { class: "card" }, h("h2", {}, h("span", { class: "ordinal", "aria-hidden": "true" }, number_), title), h("p", { class: "hint" }, hint), inside);
}

function learned(found) {
  const kinds = Object.entries(found.by_kind).filter(([, sums]) => sums.total);
  const strip = h(
    "div",
    { class: "stack tall", role: "img", "aria-label": kinds.map(([kind, sums]) => `${t(`kind.${kind}`)} ${percent(sums.share)}`).join(", ") },
    kinds.map(([, sums], place) => h("span", { class: "part", style: { "--share": sums.share, "--colour": `var(--c${place})` } })),
  );
  const legend = kinds.map(([kind, sums], place) =>
    h(
      "li",
      {},
      h("span", { class: "swatch", style: { "--colour": `var(--c${place})` } }),
      h("span", {}, t(`kind.${kind}`)),
      h("span", { class: "figure" }, number(sums.total)),
      h("span", { class: "figure" }, percent(sums.share)),
    ),
  );
  const branches = branch(grouped(found.tensors), found.total, 0);
  const note = found.tied_embeddings ? h("p", { class: "hint" }, t("tied")) : null;
  return card(1, t("learnedTitle"), t("learnedHint"), strip, h("ul", { class: "legend" }, legend), h("h3", {}, t("treeTitle")), h("div", { class: "tree" }, branches), note);
}

/** Tensors by the dots of their names. */
function grouped(tensors) {
  const root = { children: new Map(), total: 0 };
  for (const tensor of tensors) {
    let at = root;
    for (const part of tensor.name.split(".")) {
      if (!at.children.has(part)) at.children.set(part, { children: new Map(), total: 0 });
      at = at.children.get(part);
      at.total += tensor.parameters;
    }
    at.tensor = tensor;
  }
  return root;
}

function branch(node, whole, depth) {
  return [...node.children].map(([name, child]) => {
    const shown = name === "*" ? t("everyLayer", { count: copies(child) }) : name;
    const facts = [
      h("span", { class: "tree-bar", "aria-hidden": "true" }, h("span", { class: "bar", style: { "--share": child.total / whole } })),
      h("span", { class: "figure" }, number(child.total)),
      h("span", { class: "figure" }, percent(child.total / whole)),
    ];
    if (child.tensor && !child.children.size) {
      const shape = child.tensor.shape.map((side) => number(side)).join(" × ");
      return h("div", { class: "leaf" }, h("span", { class: "tree-name" }, shown, " ", h("code", {}, shape)), facts);
    }
    return h("details", { open: depth < 2 }, h("summary", {}, h("span", { class: "tree-name" }, shown), facts), h("div", { class: "twigs" }, branch(child, whole, depth + 1)));
  });
}

function copies(node) {
  return node.tensor ? node.tensor.copies : copies(node.children.values().next().value);
}

function places(found) {
  const { positional } = found;
  const facts = [[t("placesKind"), t(`places.${positional.kind}`)], [t("placesCount"), number(positional.places)]];
  if (positional.rotary) {
    const turning = positional.rotary.wavelengths.filter((length) => length <= positional.places).length;
    facts.push(["rope_theta", number(positional.theta)], [t("pairsTurning"), `${turning} / ${positional.rotary.wavelengths.length}`]);
  } else facts.push([t("placesLearned"), number(positional.learned_parameters)]);
  const { stride, values } = positional.similarity ?? { stride: 1, values: [] };
  const points = values.map((value, place) => [place * stride, value]);
  const chart = points.length
    ? lineChart([{ name: t("likeness"), points, tone: 0 }], { label: t("likenessLabel"), xName: t("distance"), yName: t("likeness") })
    : null;
  return card(2, t("placesTitle"), t(`placesHint.${positional.kind}`), list(facts), chart);
}

function hyper(found) {
  const { from, ...values } = found.hyperparameters;
  const { train, validation } = found.loss;
  const lines = [{ name: t("lossTrain"), points: train, tone: 1 }, { name: t("lossValidation"), points: validation, tone: 0 }];
  const last = validation.at(-1) ?? train.at(-1);
  const chart = train.length > 1 || validation.length > 1
    ? lineChart(lines, { label: t("lossLabel", { loss: last[1].toFixed(2), step: last[0] }), xName: t("steps"), yName: t("loss") })
    : h("p", { class: "note" }, t("noCurve"));
  const rows = Object.keys(values).length ? settingsTable(values, found.texts.TrainConfig) : h("p", { class: "note" }, t("noRecipe"));
  return card(3, t("hyperTitle"), t("hyperHint", { from }), chart, rows);
}

function configuration(found) {
  const { model, generation } = found.configuration;
  const own = Object.fromEntries(Object.entries(generation).filter(([name]) => !name.startsWith("_")));
  return card(4, t("configurationTitle"), t("configurationHint"), settingsTable(model, found.texts.ModelConfig), Object.keys(own).length ? [h("h3", {}, t("generationTitle")), list(Object.entries(own).map(([name, value]) => [name, plain(value)]))] : null);
}

function settingsTable(values, texts) {
  const rows = Object.entries(values).map(([name, value]) =>
    h("tr", {}, h("th", { scope: "row" }, h("code", {}, name)), h("td", { class: "setting-value" }, plain(value)), h("td", { class: "explained" }, texts[name] ?? "")),
  );
  return h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": t("settings") }, h("table", { class: "values" }, h("tbody", {}, rows)));
}

function plain(value) {
  if (value === null) return "–";
  if (Array.isArray(value)) {
    const kinds = [...new Set(value.map(String))];
    return kinds.length === 1 && value.length > 1 ? `${kinds[0]} × ${value.length}` : value.join(", ") || "–";
  }
  if (typeof value === "object") return Object.entries(value).map(([name, each]) => `${name}: ${plain(each)}`).join(", ") || "–";
  return typeof value === "number" ? number(value) : String(value);
}

function list(facts) {
  return h("dl", { class: "pairs" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) [count, unit] = [count / 1024, unit + 1];
  return `${count < 10 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}
