// Texts as part of the address. Short ones stand in the query; long ones in the fragment, which has no limit that counts
// and is never sent.

import { base, router, type Changes } from './router.svelte';

const MOST_IN_QUERY = 1200;

function fragment(url: URL): URLSearchParams {
  return new URLSearchParams(url.hash.slice(1));
}

/** Whether a page is the one shown: it stands for a moment longer, while the next one loads. */
export function isAt(page: string): boolean {
  return router.place(router.path).route?.name === page;
}

/** Texts of a page's own address by their names; null where there is none. Call while it initializes. */
export function ownTexts(page: string): (name: string) => string | null {
  let held = new URL(base);
  const url = $derived.by(() => {
    if (isAt(page)) held = router.url;
    return held;
  });
  return (name) => url.searchParams.get(name) ?? fragment(url).get(name);
}

/** Change texts and other state in one step; null and the empty text take a name away. */
export function setTexts(texts: Record<string, string | null>, changes: Changes = {}, how: 'push' | 'replace' = 'replace'): void {
  const url = new URL(router.url);
  const long = fragment(url);
  for (const [name, text] of Object.entries(texts)) {
    url.searchParams.delete(name);
    long.delete(name);
    if (text) (encodeURIComponent(text).length > MOST_IN_QUERY ? long : url.searchParams).set(name, text);
  }
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === '' || value === false) url.searchParams.delete(name);
    else url.searchParams.set(name, value === true ? '1' : String(value));
  }
  url.hash = [...long].length ? long.toString() : '';
  if (url.href !== router.url.href) router.go(url.href, { replace: how === 'replace', keep: true });
}

/** An address that carries a text to another page. */
export function withText(address: string, name: string, text: string): string {
  const url = new URL(address, location.href);
  if (encodeURIComponent(text).length <= MOST_IN_QUERY) url.searchParams.set(name, text);
  else url.hash = new URLSearchParams({ [name]: text }).toString();
  return url.pathname + url.search + url.hash;
}
