// Pages, one line each. Only pages that exist are here; a page with a `rail` shows in it, in this order.
// Addresses kept free for pages that come later: /graphs, /g/:id, /d/:dict/map, /explain, /embed.

import type { Route } from './router.svelte';

export const routes: Route[] = [
  { path: '/', name: 'home', load: () => import('$/pages/Home.svelte'), rail: { title: 'Home', icon: 'home', key: 'h' } },
  { path: '/d/:dict', name: 'dictionary', load: () => import('$/pages/Dictionary.svelte') },
  { path: '/d/:dict/f/:feature', name: 'feature', load: () => import('$/pages/Feature.svelte') },
];
