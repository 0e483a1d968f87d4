// The URL is the state. Paths are relative to where the interface is mounted, found from this script's own address,
// so that it works under any prefix.

import type { Component } from 'svelte';

export interface Route {
  /** Pattern such as /d/:dict/f/:feature */
  path: string;
  name: string;
  load: () => Promise<{ default: Component }>;
  /** Where the page stands in the rail; pages of one object have none. */
  rail?: { title: string; icon: string; key?: string };
  /** Without the frame: shown within pages of others. */
  bare?: boolean;
}

export interface Place {
  route: Route | null;
  params: Record<string, string>;
}

type Value = string | number | boolean | null | undefined;
export type Changes = Record<string, Value>;

/** Directory the interface is served from, with its slash at the end. */
export const base: URL = import.meta.env.DEV ? new URL('/', location.href) : new URL(/* @vite-ignore */ '../', import.meta.url);

function within(url: URL): string {
  const path = url.pathname.startsWith(base.pathname) ? url.pathname.slice(base.pathname.length) : '';
  return `/${path}`;
}

/** Frames of other sites ask for a feature's own page with ?embed=true: here that is a page of its own. */
function framed(url: URL): URL {
  if (url.searchParams.get('embed') !== 'true' || !/^\/d\/[^/]+\/f\/[^/]+\/?$/.test(within(url))) return url;
  url.searchParams.delete('embed');
  url.pathname = `${base.pathname}embed${within(url)}`;
  history.replaceState(history.state, '', url);
  return url;
}

class Router {
  url = $state.raw(framed(new URL(location.href)));
  /** Counts navigations to another page, so that focus and scroll can follow them. */
  visits = $state(0);
  routes: Route[] = [];

  path = $derived(within(this.url));
  query = $derived(this.url.searchParams);

  place(path: string): Place {
    const parts = split(path);
    for (const route of this.routes) {
      const params = match(split(route.path), parts);
      if (params) return { route, params };
    }
    return { route: null, params: {} };
  }

  constructor() {
    history.scrollRestoration = 'manual';
    addEventListener('popstate', () => {
      this.#arrive(new URL(location.href));
      const y = scrolled();
      requestAnimationFrame(() => requestAnimationFrame(() => scrollTo(0, y)));
    });
    document.addEventListener('click', (event) => this.#follow(event));
  }

  go(to: string, { replace = false, keep = false } = {}): void {
    const url = new URL(to, location.href);
    try {
      if (!keep && scrollY !== scrolled()) history.replaceState({ y: scrollY }, '');
      if (replace) history.replaceState(null, '', url);
      else if (url.href !== location.href) history.pushState(null, '', url);
    } catch (error) {
      // Browsers refuse more than a hundred changes within seconds: the page goes on, and a later change is shown.
      if (!(error instanceof DOMException)) throw error;
    }
    const another = within(url) !== this.path;
    this.#arrive(url);
    if (another && !keep) scrollTo(0, 0);
  }

  #arrive(url: URL): void {
    const another = within(url) !== this.path;
    this.url = url;
    if (another) this.visits += 1;
  }

  #follow(event: MouseEvent): void {
    if (event.defaultPrevented || event.button !== 0) return;
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = event.composedPath().find((node): node is HTMLAnchorElement => node instanceof HTMLAnchorElement);
    if (!link?.href || link.target || link.hasAttribute('download')) return;
    const url = new URL(link.href);
    if (url.origin !== location.origin || !url.pathname.startsWith(base.pathname)) return;
    if (within(url).startsWith('/api/')) return;
    if (url.hash && url.pathname === location.pathname && url.search === location.search) return;
    event.preventDefault();
    this.go(url.href);
  }
}

/** How far down this entry of the history was left. */
function scrolled(): number {
  return (history.state as { y?: number } | null)?.y ?? 0;
}

function split(path: string): string[] {
  return path.split('/').filter(Boolean);
}

function match(pattern: string[], parts: string[]): Record<string, string> | null {
  if (pattern.length !== parts.length) return null;
  const params: Record<string, string> = {};
  for (const [i, piece] of pattern.entries()) {
    const part = parts[i] ?? '';
    if (piece.startsWith(':')) {
      try {
        params[piece.slice(1)] = decodeURIComponent(part);
      } catch {
        return null;
      }
    } else if (piece !== part) return null;
  }
  return params;
}

export const router = new Router();

/**
 * Where a page stands: its parameters and its query. While another page is being loaded, what it was: a page that is
 * about to go does not ask for what the next address says.
 */
export function ownPlace(name: string): { readonly params: Record<string, string>; readonly query: URLSearchParams } {
  let held = { params: {} as Record<string, string>, query: new URLSearchParams() };
  const place = $derived.by(() => {
    const { route, params } = router.place(router.path);
    if (route?.name === name) held = { params, query: router.query };
    return held;
  });
  return {
    get params() {
      return place.params;
    },
    get query() {
      return place.query;
    },
  };
}

/** Address of a page of the interface: href('/d/x', {sort: '-density'}). Empty values are left out. */
export function href(path: string, query: Changes = {}): string {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) put(params, name, value);
  return `${base.pathname}${path.replace(/^\//, '')}${params.size ? `?${params}` : ''}`;
}

export function featureHref(dict: string, feature: number, query: Changes = {}): string {
  return href(`/d/${encodeURIComponent(dict)}/f/${feature}`, query);
}

export function dictionaryHref(dict: string, query: Changes = {}): string {
  return href(`/d/${encodeURIComponent(dict)}`, query);
}

/** The address of this page with some of its state changed; null and the empty string take a key away. */
export function withQuery(changes: Changes): string {
  const url = new URL(router.url);
  for (const [name, value] of Object.entries(changes)) put(url.searchParams, name, value);
  return url.href;
}

/** Change the state of this page. A step that "back" should undo is pushed; typing and dragging replace. */
export function setQuery(changes: Changes, how: 'push' | 'replace' = 'replace'): void {
  const to = withQuery(changes);
  if (to !== router.url.href) router.go(to, { replace: how === 'replace', keep: true });
}

function put(params: URLSearchParams, name: string, value: Value): void {
  if (value === null || value === undefined || value === '' || value === false) params.delete(name);
  else params.set(name, value === true ? '1' : String(value));
}
