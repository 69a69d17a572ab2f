// Tokens and the text that they make: where each one stands, and how much it surprised the model.

/** Bits: 0 for a certainty, 1 for the toss of a coin, 10 for one chance in a thousand. */
export const bits = (logprob) => Math.abs(logprob) / Math.LN2;

// bits below which a colour holds; the same as the terminal's
const SCALE = [0.5, 2, 4, 7];

/** 0 (expected) to 4 (a great surprise). */
export function heat(token) {
  const surprise = bits(token.logprob);
  const level = SCALE.findIndex((limit) => surprise < limit);
  return level < 0 ? SCALE.length : level;
}

/** A control token stands for no text. It ends an answer, if it is not a part of a picture. */
export const isControl = (token) => /^<\|.*\|>$/.test(token.text);
export const isPicture = (token) => /^<\|(begin_of_image|end_of_image|grid_\d+x\d+|image_\d+)\|>$/.test(token.text);

/** Where each token's characters stand in the answer's text: [start, end). A token that ends inside a character has
 * none; the one that completes it gets them. What stands beyond the `length` of the text shown has none either. */
export function spans(tokens, length) {
  const decoder = new TextDecoder();
  let at = 0;
  return tokens.map((token) => {
    if (isControl(token)) return [at, at];
    const start = at;
    at = Math.min(length, at + decoder.decode(new Uint8Array(token.bytes), { stream: true }).length);
    return [start, at];
  });
}

/** The text of some tokens. */
export function textOf(tokens) {
  const bytes = tokens.filter((token) => !isControl(token)).flatMap((token) => token.bytes);
  return new TextDecoder().decode(new Uint8Array(bytes));
}

/** A token for people: its spaces and line breaks can be seen; one that is a part of a character shows its bytes. */
export function spelled(token) {
  if (!token.bytes?.length || !token.text.includes("\uFFFD")) return visible(token.text);
  return `‹${token.bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ")}›`;
}

/** The same of a text. */
export function visible(text) {
  return text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ | $/g, "␣").replace(/\uFFFD/g, "▯") || "▯";
}

export function percent(share) {
  if (!share) return "0 %";
  if (share >= 0.9995) return "100 %";
  return share >= 0.1 ? `${(100 * share).toFixed(0)} %` : share >= 0.001 ? `${(100 * share).toFixed(1)} %` : "< 0.1 %";
}
