// Keys of the page: one listener, and a register that the help sheet reads.

import { untrack } from 'svelte';
import { preferences } from './preferences.svelte';

export interface Key {
  /** As the event names it: "j", "J", "?", "Escape"; "mod+k" with Ctrl or Cmd. */
  key: string;
  label: string;
  group: string;
  run: (event: KeyboardEvent) => void;
}

class Keys {
  bound: Key[] = $state.raw([]);

  constructor() {
    addEventListener('keydown', (event) => this.#press(event));
  }

  #press(event: KeyboardEvent): void {
    if (event.defaultPrevented || event.isComposing) return;
    const mod = event.metaKey || event.ctrlKey;
    const name = mod ? `mod+${event.key.toLowerCase()}` : event.key;
    const plain = !mod && event.key.length === 1;
    if (event.altKey || (plain && (isTyping(event) || !preferences.keys))) return;
    if (event.key !== 'Escape' && !mod && document.querySelector('dialog[open]')) return;
    const found = this.bound.findLast((key) => key.key === name);
    if (!found) return;
    if (event.key !== 'Escape') event.preventDefault();
    found.run(event);
  }
}

function isTyping(event: KeyboardEvent): boolean {
  const target = event.composedPath()[0];
  return (
    target instanceof HTMLElement &&
    (target.isContentEditable || ['INPUT', 'TEXTAREA', 'SELECT'].includes(target.tagName)) &&
    !(target instanceof HTMLInputElement && ['checkbox', 'radio', 'range', 'button'].includes(target.type))
  );
}

export const keys = new Keys();

/** Keys that hold while a component is shown: call while it initializes. The last bound of equal keys wins. */
export function bindKeys(list: Key[]): void {
  $effect.pre(() => {
    keys.bound = [...untrack(() => keys.bound), ...list];
    return () => {
      keys.bound = untrack(() => keys.bound).filter((key) => !list.includes(key));
    };
  });
}
