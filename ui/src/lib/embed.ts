// What the address of a page within another page asks for, by the keys that such frames are given elsewhere.

const TALLEST = 10_000;

/** Whether a part is shown: all are that the address does not leave out. */
export function shows(query: URLSearchParams, part: string): boolean {
  return query.get(`embed${part}`) !== 'false';
}

/** Pixels that what is shown may take, beyond which it scrolls; null for as many as it needs. */
export function heightOf(query: URLSearchParams): number | null {
  const asked = query.get('height') ?? '';
  return /^[1-9]\d{0,4}$/.test(asked) ? Math.min(Number(asked), TALLEST) : null;
}
