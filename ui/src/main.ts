import './styles/index.css';
import { mount } from 'svelte';
import App from './app/App.svelte';
import { applyPreferences } from './app/preferences.svelte';
import { base, router } from './app/router.svelte';
import { routes } from './app/routes';

// Absolute, or a browser looks for it beside whatever address comes next.
document.querySelector<HTMLLinkElement>('link[rel=icon]')?.setAttribute('href', new URL('icon.svg', base).href);
applyPreferences();
router.routes = routes;
mount(App, { target: document.getElementById('app') as HTMLElement });
