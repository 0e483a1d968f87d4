// Short addresses: a page's state in the workspace, under an id. The whole state stands behind the # too, so that the
// address also opens where that workspace is not.

import { api } from '$/api/client';
import { base, href, router } from './router.svelte';
import { toasts } from './toasts.svelte';

interface Link {
  id: string;
  state: Record<string, unknown>;
}

/** This page as the interface addresses it, whatever it is mounted under. */
const here = (): string => router.path + router.url.search + router.url.hash;

/** A short address of this page; a long one where none can be made. */
export async function linkHere(): Promise<string> {
  const at = here();
  try {
    const link = await api.post<Link>('links', { state: { at } });
    return new URL(`${href(`/l/${link.id}`)}#${encodeURIComponent(at)}`, location.href).href;
  } catch {
    return router.url.href;
  }
}

/** What a frame reads by: a token that changes nothing; null where none is needed. */
export async function reader(signal?: AbortSignal): Promise<string | null> {
  return (await api.get<{ token: string | null }>('session/reader', {}, signal)).token;
}

/** What shows a page of the interface within another page. */
export function frameOf(path: string, title: string, height: number, options: Record<string, string>, token: string | null): string {
  const url = new URL(href(path), location.href);
  for (const [key, value] of Object.entries(options)) url.searchParams.set(key, value);
  if (token) url.hash = `token=${token}`;
  return `<iframe src="${quoted(url.href)}" title="${quoted(title)}" width="100%" height="${height}"></iframe>`;
}

/** Text within the quotes of an attribute. */
function quoted(text: string): string {
  return text.replace(/[&"<>]/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** Where a short address leads. Throws a Problem where neither the workspace nor the address says it. */
export async function follow(id: string, signal?: AbortSignal): Promise<string> {
  const written = decodeURIComponent(router.url.hash.slice(1));
  try {
    const { state } = await api.get<Link>(`links/${encodeURIComponent(id)}`, {}, signal);
    if (typeof state['at'] === 'string' && state['at'].startsWith('/')) return within(state['at']);
  } catch (error) {
    if (!written.startsWith('/')) throw error;
  }
  return within(written);
}

/** An address of the interface, wherever it is mounted: never one of another site. */
function within(at: string): string {
  const url = new URL(at.replace(/^\/+/, './'), base);
  return url.origin === base.origin && url.pathname.startsWith(base.pathname) ? url.href : base.href;
}

export async function copy(what: string, text: string | Promise<string>): Promise<void> {
  try {
    await navigator.clipboard.writeText(await text);
    toasts.say(`Copied ${what}`);
  } catch {
    toasts.say('The browser did not let the page copy', { kind: 'failed' });
  }
}
