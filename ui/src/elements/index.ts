// Custom elements for notebooks and static pages, and the notebooks' widget, from the app's components.

import { define } from './element';
import Feature from './Feature.svelte';
import Hist from './Hist.svelte';
import Logits from './Logits.svelte';
import Tokens from './Tokens.svelte';
import { render } from './widget';

define('mono-tokens', Tokens);
define('mono-hist', Hist);
define('mono-logits', Logits);
define('mono-feature', Feature);

export default { render };
