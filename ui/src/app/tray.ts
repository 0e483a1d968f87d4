// What can be done with the pinned features: one line per page that takes some, when that page exists.

import type { IconName } from '$/components/Icon.svelte';
import { encode, newEdit } from '$/lib/edits';
import type { Pin } from './pins.svelte';
import { href } from './router.svelte';

export interface TrayAction {
  title: string;
  icon: IconName;
  href: (pins: readonly Pin[]) => string;
}

export const trayActions: TrayAction[] = [
  { title: 'Steer', icon: 'steer', href: (pins) => `${href('/steer')}?${new URLSearchParams(pins.slice(0, 16).map((pin) => ['e', encode(newEdit(pin.dict, pin.feature))]))}` },
  { title: 'Make a list', icon: 'list', href: () => href('/lists', { pins: true }) },
];
