// What lies over the page: one thing at a time.

type Overlay = 'command' | 'help';

class Overlays {
  shown: Overlay | null = $state(null);
  /** The rail as a drawer, on narrow screens. */
  rail = $state(false);

  open(overlay: Overlay): void {
    this.shown = overlay;
  }

  close(): void {
    this.shown = null;
  }
}

export const overlays = new Overlays();
