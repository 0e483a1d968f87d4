// What can be done with the pinned features: one line per page that takes some, when that page exists.

import { shelf } from '$/api/library.svelte';
import type { IconName } from '$/components/Icon.svelte';
import { encode, newEdit } from '$/lib/edits';
import { pins, type Pin } from './pins.svelte';
import { href } from './router.svelte';

export interface TrayAction {
  title: string;
  icon: IconName;
  href: (pins: readonly Pin[]) => string;
}

/** The page that steers by these features. */
export function steerHref(features: readonly { dict: string; feature: number }[]): string {
  return `${href('/steer')}?${new URLSearchParams(features.slice(0, 16).map(({ dict, feature }) => ['e', encode(newEdit(dict, feature))]))}`;
}

/** The page that compares a dictionary: with those of pinned features, or else with one it has the width of. */
export function compareHref(dict: string): string {
  const width = shelf.byId.get(dict)?.d_model;
  const alike = shelf.cards.filter((card) => card.d_model === width && card.id !== dict).map((card) => card.id);
  const pinned = pins.all.map((pin) => pin.dict).filter((id) => alike.includes(id));
  const beside = pinned.length ? pinned : alike.slice(0, 1);
  return href('/compare', { dicts: [...new Set([dict, ...beside])].slice(0, 6).join(',') });
}

export const trayActions: TrayAction[] = [
  { title: 'Steer', icon: 'steer', href: steerHref },
  { title: 'Compare', icon: 'compare', href: ([first]) => compareHref(first?.dict ?? '') },
  { title: 'Make a list', icon: 'list', href: () => href('/lists', { pins: true }) },
];
