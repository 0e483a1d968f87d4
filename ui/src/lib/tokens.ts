// Tokens as text that can be seen: glyphs for line breaks and tabs, hex for what has no shape. Never HTML.

const GLYPHS: Record<string, string> = { '\n': '↵', '\t': '→', '\r': '␍' };
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/u;
const HIDDEN_ALL = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/gu;
/** What most text is: found faster than that nothing is hidden in it. */
const PRINTED = /^[ -~]*$/;
const BYTES = /^(?:\\x[0-9a-f]{2})+$/;
const MOST = 400;

/** Text with newlines, tabs and returns as glyphs, and other invisible characters as escapes. */
export function visible(text: string): string {
  const short = text.length > MOST ? `${text.slice(0, MOST)}…` : text;
  if (PRINTED.test(short) || !HIDDEN.test(short)) return short;
  return short.replace(HIDDEN_ALL, (character) => {
    const glyph = GLYPHS[character];
    if (glyph) return glyph;
    const code = character.codePointAt(0) ?? 0;
    return code < 256 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u${code.toString(16).padStart(4, '0')}`;
  });
}

/** A token standing alone: a single space shows as one, longer runs are counted. */
export function chip(text: string): string {
  if (text === '') return '∅';
  if (text === ' ') return '␣';
  return visible(text.replace(/^ /, '␣').replace(/ {2,}/g, (run) => `␣${run.length}`));
}

/** Whether a token is part of a character: its bytes are shown, not its text. */
export function isPartial(text: string): boolean {
  return text.startsWith('\\x') && BYTES.test(text);
}

/** The bytes of a partial token as numbers. */
function bytesOf(text: string): number[] {
  return [...text.matchAll(/\\x([0-9a-f]{2})/g)].map((match) => Number.parseInt(match[1] ?? '0', 16));
}

/** The character that a partial token and its neighbors join to, where they do. */
export function joined(tokens: readonly string[], at: number): string | null {
  if (!isPartial(tokens[at] ?? '')) return null;
  let first = at;
  let last = at;
  while (first > 0 && isPartial(tokens[first - 1] ?? '') && at - first < 4) first -= 1;
  while (last < tokens.length - 1 && isPartial(tokens[last + 1] ?? '') && last - at < 4) last += 1;
  const all = tokens.slice(first, last + 1).flatMap(bytesOf);
  const text = new TextDecoder().decode(new Uint8Array(all));
  return text.includes('\ufffd') ? null : text;
}
