// What is not seen follows once what is seen has been painted.

import { untrack } from 'svelte';
import { afterPaint } from './paint';

/** The value of `of`: at once where it is seen, and else a frame later. Call while a component initializes. */
export function later<T>(of: () => T): { readonly now: T; seen: boolean } {
  let last = $state.raw(untrack(of));
  let seen = $state(false);
  const value = $derived(seen ? of() : last);
  $effect(() => {
    const next = of();
    if (next === untrack(() => last)) return;
    return afterPaint(() => (last = next));
  });
  return {
    get now() {
      return value;
    },
    get seen() {
      return seen;
    },
    set seen(is) {
      seen = is;
    },
  };
}
