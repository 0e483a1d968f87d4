// Dictionaries, features and runs that were looked at last, kept in this browser.

import type { Crumb } from './crumbs.svelte';

export interface Visit {
  /** Within the interface. */
  path: string;
  search: string;
  /** From the outermost to the thing itself. */
  names: string[];
}

const KEY = 'monoscope.recent';
const MOST = 12;
/** Milliseconds after which a page was looked at rather than passed through. */
const LOOK = 1_000;
const KEPT = new Set(['dictionary', 'feature', 'run']);

function isVisit(value: unknown): value is Visit {
  const visit = value as Partial<Visit> | null;
  return typeof visit?.path === 'string' && typeof visit.search === 'string' && Array.isArray(visit.names) && visit.names.every((name) => typeof name === 'string');
}

function load(): Visit[] {
  try {
    const stored: unknown = JSON.parse(localStorage.getItem(KEY) ?? '[]');
    return Array.isArray(stored) ? stored.filter(isVisit).slice(0, MOST) : [];
  } catch {
    return [];
  }
}

class Recent {
  all: Visit[] = $state.raw(load());

  /** Remember a page, once it has been looked at. Returns what calls that off. */
  look(route: string, path: string, search: string, crumbs: readonly Crumb[]): (() => void) | undefined {
    const names = crumbs.slice(1).map((crumb) => crumb.text);
    if (!KEPT.has(route) || !names.at(-1)) return undefined; // it is called again once its name is known
    const timer = setTimeout(() => this.#keep([{ path, search, names }, ...this.all.filter((visit) => visit.path !== path)].slice(0, MOST)), LOOK);
    return () => clearTimeout(timer);
  }

  clear(): void {
    this.#keep([]);
  }

  #keep(visits: Visit[]): void {
    this.all = visits;
    try {
      localStorage.setItem(KEY, JSON.stringify(visits));
    } catch {
      // Without storage they last as long as the page.
    }
  }
}

export const recent = new Recent();
