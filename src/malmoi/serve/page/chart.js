// Lines over numbers, drawn without a library.

import { h, s } from "./dom.js";

const WIDTH = 640;
const HEIGHT = 240;
const EDGE = { left: 46, right: 12, top: 12, bottom: 28 };

/** `lines`: [{ name, points: [[x, y], ...], tone }]. `label` says to who cannot see it what is drawn. */
export function lineChart(lines, { label, xName, yName }) {
  const drawn = lines.filter((line) => line.points.length);
  const all = drawn.flatMap((line) => line.points);
  const [left, right] = range(all.map((point) => point[0]));
  const [low, high] = range(all.map((point) => point[1]));
  const x = (value) => EDGE.left + ((value - left) / (right - left || 1)) * (WIDTH - EDGE.left - EDGE.right);
  const y = (value) => HEIGHT - EDGE.bottom - ((value - low) / (high - low || 1)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const grid = ticks(low, high).map((value) => [
    s("line", { x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(value), y2: y(value), class: "grid" }),
    s("text", { x: EDGE.left - 8, y: y(value) + 4, "text-anchor": "end" }, short(value)),
  ]);
  const feet = ticks(left, right).map((value) => s("text", { x: x(value), y: HEIGHT - 8, "text-anchor": "middle" }, short(value)));
  const paths = drawn.map((line) => {
    const d = line.points.map(([a, b], place) => `${place ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
    return s("path", { d, class: `line tone-${line.tone}` });
  });
  const legend = drawn.map((line) => h("span", { class: `key tone-${line.tone}` }, line.name));
  return h(
    "figure",
    { class: "chart" },
    s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label }, grid, feet, paths),
    h("figcaption", {}, legend, h("span", { class: "muted" }, `${yName} / ${xName}`)),
  );
}

function range(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  return [low, high > low ? high : low + 1];
}

/** Three to six round numbers between `low` and `high`. */
function ticks(low, high) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-6; at += step) found.push(at);
  return found;
}

function short(value) {
  if (Math.abs(value) >= 1e6) return `${+(value / 1e6).toFixed(1)}M`;
  if (Math.abs(value) >= 1e4) return `${+(value / 1e3).toFixed(1)}k`;
  return `${+value.toFixed(2)}`;
}
