// Markdown to elements, safely: the text itself only ever becomes text nodes, the elements are those made here, and a
// link leads to http, https or mailto or is no link. Pictures are not loaded: nothing is fetched because a model said so.
//
// Every piece of text is a slice of the source, and is made into nodes by `emit(start, end)`. So the caller can make of
// each token a thing to be clicked, within headings, lists and code alike.

import { h } from "./dom.js";

const FENCE = /^( {0,3})(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])\s+/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)+\|?\s*$/;
const LINK = /\[([^[\]\n]*)\]\(\s*([^()\s]*)\s*\)/y;
const SAFE = /^(https?:\/\/|mailto:)/i;
const DEEPEST = 12;

/** The nodes of `source`. `code(element, text)` is told each block of code and gives what stands in its place. */
export function render(source, emit, code = (element) => element) {
  const lines = [];
  let at = 0;
  for (const line of source.split("\n")) {
    lines.push([at, at + line.length]);
    at += line.length + 1;
  }
  return blocks({ source, emit, code }, lines, 0);
}

function blocks(context, lines, depth) {
  const { source } = context;
  const text = (line) => source.slice(...line);
  const made = [];
  let n = 0;
  while (n < lines.length) {
    const line = text(lines[n]);
    let match;
    if (!line.trim()) n += 1;
    else if ((match = FENCE.exec(line))) n = fenced(context, lines, n, match, made);
    else if ((match = HEADING.exec(line))) {
      const start = lines[n][0] + line.indexOf(match[2], match[1].length);
      const level = Math.min(6, match[1].length + 2); // the page has the first two
      made.push(h(`h${level}`, {}, inline(context, start, start + match[2].length, 0)));
      n += 1;
    } else if (RULE.test(line)) {
      made.push(h("hr"));
      n += 1;
    } else if (QUOTE.test(line) && depth < DEEPEST) {
      const inside = [];
      for (; n < lines.length && QUOTE.test(text(lines[n])); n += 1) {
        inside.push([lines[n][0] + QUOTE.exec(text(lines[n]))[0].length, lines[n][1]]);
      }
      made.push(h("blockquote", {}, blocks(context, inside, depth + 1)));
    } else if (ITEM.test(line) && depth < DEEPEST) n = list(context, lines, n, made, depth);
    else if (line.includes("|") && n + 1 < lines.length && TABLE_RULE.test(text(lines[n + 1]))) {
      n = table(context, lines, n, made);
    } else n = paragraph(context, lines, n, made);
  }
  return made;
}

function fenced(context, lines, first, [, , fence, language], made) {
  let n = first + 1;
  const closing = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}\\s*$`);
  while (n < lines.length && !closing.test(context.source.slice(...lines[n]))) n += 1;
  const inside = lines.slice(first + 1, n);
  const nodes = inside.flatMap(([start, end], place) => [place ? "\n" : "", ...context.emit(start, end)]);
  const plain = inside.map((line) => context.source.slice(...line)).join("\n");
  const block = h("pre", { tabindex: "0", "aria-label": language.trim() || null }, h("code", {}, nodes));
  made.push(context.code(block, plain, language.trim().split(/\s/)[0]));
  return n + 1;
}

function list(context, lines, first, made, depth) {
  const indent = ITEM.exec(context.source.slice(...lines[first]))[1].length;
  const ordered = /\d/.test(ITEM.exec(context.source.slice(...lines[first]))[2]);
  const items = [];
  let n = first;
  for (; n < lines.length; n += 1) {
    const line = context.source.slice(...lines[n]);
    const match = ITEM.exec(line);
    if (match && match[1].length <= indent + 1) {
      if (/\d/.test(match[2]) !== ordered || match[1].length < indent) break;
      items.push([[lines[n][0] + match[0].length, lines[n][1]]]);
    } else if (!line.trim() || line.search(/\S/) > indent) {
      const cut = Math.min(line.search(/\S|$/), indent + 2);
      items.at(-1).push([lines[n][0] + cut, lines[n][1]]);
    } else break;
  }
  const start = ordered ? parseInt(ITEM.exec(context.source.slice(...lines[first]))[2], 10) : 1;
  const views = items.map((inside) => h("li", {}, unwrapped(blocks(context, inside, depth + 1))));
  made.push(h(ordered ? "ol" : "ul", { start: start === 1 ? null : start }, views));
  return n;
}

/** An item of one paragraph needs no paragraph around it. */
function unwrapped(nodes) {
  return nodes[0]?.tagName === "P" ? [...nodes[0].childNodes, ...nodes.slice(1)] : nodes;
}

function table(context, lines, first, made) {
  const row = (line, tag) => h("tr", {}, cells(context.source, line).map(([start, end]) => h(tag, {}, inline(context, start, end, 0))));
  const head = h("thead", {}, row(lines[first], "th"));
  let n = first + 2;
  const rows = [];
  for (; n < lines.length && context.source.slice(...lines[n]).includes("|"); n += 1) rows.push(row(lines[n], "td"));
  made.push(h("div", { class: "wide", tabindex: "0" }, h("table", {}, head, h("tbody", {}, rows))));
  return n;
}

function cells(source, [start, end]) {
  const found = [];
  let from = start;
  for (let at = start; at <= end; at += 1) {
    if (at === end || (source[at] === "|" && source[at - 1] !== "\\")) {
      found.push(trimmed(source, from, at));
      from = at + 1;
    }
  }
  if (found.length > 1 && found[0][0] === found[0][1]) found.shift();
  if (found.length > 1 && found.at(-1)[0] === found.at(-1)[1]) found.pop();
  return found;
}

function trimmed(source, start, end) {
  while (start < end && source[start] === " ") start += 1;
  while (end > start && source[end - 1] === " ") end -= 1;
  return [start, end];
}

function paragraph(context, lines, first, made) {
  const nodes = [];
  let n = first;
  for (; n < lines.length; n += 1) {
    const line = context.source.slice(...lines[n]);
    if (!line.trim()) break;
    if (n > first && (FENCE.test(line) || HEADING.test(line) || QUOTE.test(line) || ITEM.test(line))) break;
    if (n > first) nodes.push(h("br"));
    nodes.push(...inline(context, ...lines[n], 0));
  }
  made.push(h("p", {}, nodes));
  return n;
}

const PAIRS = [
  ["**", "strong"],
  ["__", "strong"],
  ["~~", "del"],
  ["*", "em"],
  ["_", "em"],
];

/** The nodes of one line's slice. */
function inline(context, start, end, depth) {
  const { source, emit } = context;
  const made = [];
  let plain = start;
  let at = start;
  const put = (upto, node, next) => {
    if (upto > plain) made.push(...emit(plain, upto));
    if (node) made.push(node);
    plain = at = next;
  };
  while (at < end) {
    const sign = source[at];
    if (sign === "\\" && at + 1 < end && /[!-/:-@[-`{-~]/.test(source[at + 1])) {
      put(at, null, at + 1);
      at += 1;
    } else if (sign === "`") {
      const run = /`+/y;
      run.lastIndex = at;
      const ticks = run.exec(source)[0];
      const close = source.indexOf(ticks, at + ticks.length);
      if (close > 0 && close + ticks.length <= end) put(at, h("code", {}, emit(at + ticks.length, close)), close + ticks.length);
      else at += ticks.length;
    } else if (sign === "[" && depth < DEEPEST) {
      const link = linked(context, at, end, depth);
      if (link) put(at, ...link);
      else at += 1;
    } else {
      const pair = depth < DEEPEST && "*_~".includes(sign) ? emphasised(source, at, end) : null;
      if (pair) put(at, h(pair.tag, {}, inline(context, at + pair.size, pair.close, depth + 1)), pair.close + pair.size);
      else at += 1;
    }
  }
  put(end, null, end);
  return made;
}

function linked(context, at, end, depth) {
  LINK.lastIndex = at;
  const match = LINK.exec(context.source);
  if (!match || at + match[0].length > end || !SAFE.test(match[2])) return null;
  const words = inline(context, at + 1, at + 1 + match[1].length, depth + 1);
  return [h("a", { href: match[2], target: "_blank", rel: "noopener noreferrer nofollow" }, words), at + match[0].length];
}

function emphasised(source, at, end) {
  for (const [sign, tag] of PAIRS) {
    if (!source.startsWith(sign, at) || /\s/.test(source[at + sign.length] ?? " ")) continue;
    if (sign[0] === "_" && /[\p{L}\p{N}]/u.test(source[at - 1] ?? "")) continue; // snake_case
    for (let close = source.indexOf(sign, at + sign.length + 1); close > 0 && close + sign.length <= end; close = source.indexOf(sign, close + 1)) {
      if (sign.length === 1 && (source[close + 1] === sign || source[close - 1] === sign)) continue;
      if (/\s/.test(source[close - 1])) continue;
      return { tag, size: sign.length, close };
    }
  }
  return null;
}
