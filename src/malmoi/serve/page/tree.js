// A conversation is a tree: who edits a message or asks again begins another branch, and nothing is lost.
//
// A node is a message: { id, parent, role, content, images, drawn, tokens, finish, seed, group, error }. `images` are the
// pictures that a person attached, `drawn` those of the model: { url, at (characters before it), token (and tokens) }.
// `chosen` says which child of a node is shown; the first messages are children of "root". Answers that were asked for
// together (n) have the same `group`. Pure functions over plain data, which is also what is stored and exported.

export const ROOT = "root";

export const newId = () => crypto.randomUUID?.() ?? `${Date.now().toString(36)}${Math.random().toString(36).slice(2)}`;

export function newConversation(system = "") {
  return { id: newId(), title: "", updated: Date.now(), system, nodes: {}, chosen: {}, spread: null };
}

export function addNode(conversation, parent, role, content, more = {}) {
  const node = { id: newId(), parent, role, content, order: Object.keys(conversation.nodes).length, ...more };
  conversation.nodes[node.id] = node;
  conversation.chosen[parent] = node.id;
  conversation.updated = Date.now();
  if (!conversation.title && role === "user") conversation.title = content.trim().replace(/\s+/g, " ").slice(0, 60);
  return node;
}

export function children(conversation, parent) {
  const found = Object.values(conversation.nodes).filter((node) => node.parent === parent);
  return found.sort((one, other) => one.order - other.order);
}

/** The messages that are shown, from the first to the last. */
export function path(conversation) {
  const shown = [];
  for (let at = conversation.nodes[conversation.chosen[ROOT]]; at; at = conversation.nodes[conversation.chosen[at.id]]) {
    shown.push(at);
  }
  return shown;
}

/** Show the sibling that stands `by` places further. */
export function step(conversation, node, by) {
  const siblings = children(conversation, node.parent);
  const next = siblings[siblings.indexOf(node) + by];
  if (next) conversation.chosen[node.parent] = next.id;
}

/** The answers that were asked for together with `node`, itself included. */
export function together(conversation, node) {
  return node.group ? children(conversation, node.parent).filter((each) => each.group === node.group) : [node];
}

/** What the API is told of the conversation, up to and with `last` (nothing for an empty one). */
export function messages(conversation, last) {
  const said = [];
  for (let at = last; at; at = conversation.nodes[at.parent]) {
    if (at.role === "user" || at.content || at.drawn?.length) said.unshift({ role: at.role, content: content(at) });
  }
  if (conversation.system.trim()) said.unshift({ role: "system", content: conversation.system });
  return said;
}

/** A message in the order in which it was said: slices of its text, { from, to }, and pictures, { url }. */
export function parts(node) {
  const found = (node.images ?? []).map((url) => ({ url }));
  let from = 0;
  for (const { at, url } of node.drawn ?? []) {
    if (at > from) found.push({ from, to: at });
    found.push({ url });
    from = at;
  }
  if (from < node.content.length) found.push({ from, to: node.content.length });
  return found;
}

function content(node) {
  const found = parts(node);
  if (!found.some((part) => part.url)) return node.content;
  return found.map(({ url, from, to }) =>
    url ? { type: "image_url", image_url: { url } } : { type: "text", text: node.content.slice(from, to) },
  );
}

/** The branch that is shown, for people. */
export function toMarkdown(conversation, names) {
  const blocks = [`# ${conversation.title || "Malmoi"}`];
  if (conversation.system.trim()) blocks.push(`**${names.system}**\n\n${conversation.system}`);
  for (const node of path(conversation)) {
    const said = parts(node).map(({ url, from, to }) => (url ? `![${names.picture}](${url})` : node.content.slice(from, to)));
    blocks.push(`**${names[node.role]}**`, ...said);
  }
  return `${blocks.join("\n\n")}\n`;
}
