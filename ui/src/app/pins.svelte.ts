// Pinned features: the tray on the right, kept in this browser.

export interface Pin {
  dict: string;
  feature: number;
  label: string | null;
}

const KEY = 'monoscope.pins';
const MOST = 64;

function load(): Pin[] {
  try {
    const stored: unknown = JSON.parse(localStorage.getItem(KEY) ?? '[]');
    return Array.isArray(stored) ? (stored as Pin[]).filter((pin) => typeof pin?.dict === 'string') : [];
  } catch {
    return [];
  }
}

class Pins {
  all: Pin[] = $state.raw(load());

  has(dict: string, feature: number): boolean {
    return this.all.some((pin) => pin.dict === dict && pin.feature === feature);
  }

  toggle(pin: Pin): boolean {
    const had = this.has(pin.dict, pin.feature);
    this.#keep(had ? this.#without(pin) : [...this.all, pin].slice(-MOST));
    return !had;
  }

  remove(pin: Pin): void {
    this.#keep(this.#without(pin));
  }

  clear(): void {
    this.#keep([]);
  }

  #without(pin: Pin): Pin[] {
    return this.all.filter((other) => other.dict !== pin.dict || other.feature !== pin.feature);
  }

  #keep(pins: Pin[]): void {
    this.all = pins;
    try {
      localStorage.setItem(KEY, JSON.stringify(pins));
    } catch {
      // Without storage the tray lasts as long as the page.
    }
  }
}

export const pins = new Pins();
