// A prompt as a page holds it: what is typed, and, a moment later, what the address says. The address is what is run.

import { untrack } from 'svelte';
import type { Message, Prompt } from '$/api/types';
import { isAt, ownTexts, setTexts } from '$/app/texts.svelte';
import type { Changes } from '$/app/router.svelte';

const MOMENT = 250;

export class Draft {
  /** What the field holds. */
  text = $state('');
  readonly #page: string;
  readonly #name: string;
  #written = '';
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Call while a component initializes. */
  constructor(page: string, name: string) {
    this.#page = page;
    this.#name = name;
    const getText = ownTexts(page);
    this.#written = getText(name) ?? '';
    this.text = this.#written;
    // Back and forward change the address, and with it what the field holds.
    $effect(() => {
      const there = getText(name) ?? '';
      untrack(() => {
        if (there === this.#written) return;
        this.#written = there;
        this.text = there;
      });
    });
    $effect(() => () => clearTimeout(this.#timer));
  }

  type(text: string, changes: Changes = {}): void {
    this.text = text;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.settle(changes), MOMENT);
  }

  /** Put what was typed into the address now. */
  settle(changes: Changes = {}): void {
    clearTimeout(this.#timer);
    if (!isAt(this.#page)) return;
    this.#written = this.text;
    setTexts({ [this.#name]: this.text || null }, changes);
  }
}

const ROLES = new Set(['system', 'user', 'assistant']);

/** Turns of a conversation out of an address; none where it holds something else. */
export function readChat(text: string): Message[] {
  try {
    const list: unknown = JSON.parse(text);
    if (!Array.isArray(list)) return [];
    return list.flatMap((turn: unknown) => {
      const [role, content] = Array.isArray(turn) ? (turn as unknown[]) : [];
      return typeof role === 'string' && ROLES.has(role) && typeof content === 'string' ? [{ role: role as Message['role'], content }] : [];
    });
  } catch {
    return [];
  }
}

export function writeChat(messages: readonly Message[]): string {
  return JSON.stringify(messages.map(({ role, content }) => [role, content]));
}

/** What a request takes, or null where there is nothing to read. */
export function promptOf(text: string | null, chat: string | null): Prompt | null {
  if (chat !== null) {
    const messages = readChat(chat);
    return messages.some((turn) => turn.content.trim()) ? { messages } : null;
  }
  return text?.trim() ? { text } : null;
}
