// A custom element around a component: its data is the property `data`, or JSON in a script inside the element.

import { mount, unmount, type Component } from 'svelte';
import { styles } from './styles';
import { surroundings } from './theme';

type View<D> = Component<{ data: D; tell: (name: string, detail: unknown) => void }>;

/** Define an element. What its component tells becomes an event, `mono-hover` or `mono-select`. */
export function define<D>(name: string, view: View<D>): void {
  if (customElements.get(name)) return; // a notebook loads the module once for each widget
  class Element extends HTMLElement {
    #data: D | null = null;
    #drawn: Record<string, unknown> | null = null;

    get data(): D | null {
      return this.#data;
    }

    set data(data: D | null) {
      this.#data = data;
      if (this.isConnected) this.#draw();
    }

    connectedCallback(): void {
      this.#data ??= this.#written();
      this.#draw();
    }

    disconnectedCallback(): void {
      this.#clear();
    }

    #written(): D | null {
      const script = this.querySelector(':scope > script[type="application/json"]');
      return script?.textContent ? (JSON.parse(script.textContent) as D) : null;
    }

    #clear(): void {
      if (this.#drawn) void unmount(this.#drawn);
      this.#drawn = null;
      this.shadowRoot?.replaceChildren();
    }

    #draw(): void {
      this.#clear();
      if (this.#data === null) return;
      const root = this.shadowRoot ?? this.attachShadow({ mode: 'open' });
      const place = document.createElement('div');
      root.append(styles(), place);
      const theme = surroundings();
      if (theme && !this.dataset['theme']) this.dataset['theme'] = theme;
      const tell = (event: string, detail: unknown): void => {
        this.dispatchEvent(new CustomEvent(`mono-${event}`, { detail, bubbles: true, composed: true }));
      };
      this.#drawn = mount(view, { target: place, props: { data: this.#data, tell } });
    }
  }
  customElements.define(name, Element);
}
