// In a frame of another site no cookie is sent: the address of a page that is embedded carries a token for reading
// behind its #, which no server is told.

const found = /(?:^#|&)token=([0-9A-Za-z._-]+)/.exec(location.hash);

/** What every request is to say of itself; null where the cookie does. */
export const bearer: string | null = found && (/\/embed\//.test(location.pathname) || new URLSearchParams(location.search).get('embed') === 'true') ? `Bearer ${found[1]}` : null;
