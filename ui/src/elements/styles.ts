// The app's own styles inside a shadow root: what they say of the page holds for the element.

import base from '../styles/base.css?inline';
import levels from '../styles/levels.css?inline';
import parts from '../styles/parts.css?inline';
import theme from '../styles/theme.css?inline';
import values from '../styles/values.css?inline';

const OWN = ':host { display: block; min-height: 0; background: none; } :host([hidden]) { display: none; }';

/** Selectors of the root as selectors of the host. */
function hosted(css: string): string {
  return css
    .replace(/:root((?:\[[^\]]+\])+)/g, ':host($1)')
    .replace(/:root\b/g, ':host')
    .replace(/(^|[{},;]|\*\/)(\s*)(?:html|body)(?=\s*[{,])/g, '$1$2:host');
}

/** A style element with everything that components take for granted. */
export function styles(): HTMLStyleElement {
  const element = document.createElement('style');
  element.textContent = [...[theme, base, parts, values, levels].map(hosted), OWN].join('\n');
  return element;
}
