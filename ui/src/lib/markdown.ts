// Markdown as a tree of plain values: headings, lists, quotes, code, emphasis, links. There is no raw HTML in it: what
// looks like a tag is text. Links go to web addresses and to pages of this interface alone.

export type Inline =
  | { kind: 'text'; text: string }
  | { kind: 'code'; text: string }
  | { kind: 'strong'; inner: Inline[] }
  | { kind: 'em'; inner: Inline[] }
  | { kind: 'link'; href: string; inner: Inline[] };

export type Block =
  | { kind: 'heading'; level: number; inner: Inline[] }
  | { kind: 'paragraph'; inner: Inline[] }
  | { kind: 'quote'; inner: Inline[] }
  | { kind: 'code'; text: string }
  | { kind: 'list'; ordered: boolean; items: Inline[][] }
  | { kind: 'rule' };

const DEPTH = 8;
const LINK = /^\[([^\]\n]{1,500})\]\(([^)\s]{1,2000})\)/;

export function safeHref(href: string): string | null {
  return /^(https?:\/\/|\/(?!\/))/i.test(href) ? href : null;
}

function inline(text: string, depth = 0): Inline[] {
  const out: Inline[] = [];
  let plain = '';
  const flush = (): void => {
    if (plain) out.push({ kind: 'text', text: plain });
    plain = '';
  };
  for (let i = 0; i < text.length; ) {
    const rest = text.slice(i);
    const code = rest.startsWith('`') ? rest.indexOf('`', 1) : -1;
    if (code > 1) {
      flush();
      out.push({ kind: 'code', text: rest.slice(1, code) });
      i += code + 1;
      continue;
    }
    const mark = rest.startsWith('**') ? '**' : rest.startsWith('*') || rest.startsWith('_') ? rest.slice(0, 1) : null;
    const end = mark && depth < DEPTH && !/^\s/.test(rest.slice(mark.length)) ? rest.indexOf(mark, mark.length) : -1;
    const inWord = mark === '_' && /\w/.test(text[i - 1] ?? '');
    if (mark && end > mark.length && !inWord && !/\s$/.test(rest.slice(0, end))) {
      flush();
      out.push({ kind: mark === '**' ? 'strong' : 'em', inner: inline(rest.slice(mark.length, end), depth + 1) });
      i += end + mark.length;
      continue;
    }
    const link = depth < DEPTH ? LINK.exec(rest) : null;
    const href = link ? safeHref(link[2] ?? '') : null;
    if (link && href) {
      flush();
      out.push({ kind: 'link', href, inner: inline(link[1] ?? '', depth + 1) });
      i += link[0].length;
      continue;
    }
    plain += text[i];
    i += 1;
  }
  flush();
  return out;
}

/** The blocks of a text, in order. */
export function markdown(source: string): Block[] {
  const lines = source.replace(/\r\n?/g, '\n').split('\n');
  const out: Block[] = [];
  let held: string[] = [];
  const flush = (): void => {
    if (held.length) out.push({ kind: 'paragraph', inner: inline(held.join(' ')) });
    held = [];
  };
  for (let i = 0; i < lines.length; i += 1) {
    const line = lines[i] ?? '';
    const heading = /^(#{1,6})\s+(.*)$/.exec(line);
    const item = /^\s{0,3}([-*+]|\d{1,9}[.)])\s+(.*)$/.exec(line);
    if (line.startsWith('```')) {
      flush();
      const code: string[] = [];
      for (i += 1; i < lines.length && !(lines[i] ?? '').startsWith('```'); i += 1) code.push(lines[i] ?? '');
      out.push({ kind: 'code', text: code.join('\n') });
    } else if (!line.trim()) flush();
    else if (heading) {
      flush();
      out.push({ kind: 'heading', level: heading[1]?.length ?? 1, inner: inline(heading[2] ?? '') });
    } else if (/^\s{0,3}([-*_])(\s*\1){2,}\s*$/.test(line)) {
      flush();
      out.push({ kind: 'rule' });
    } else if (item) {
      flush();
      const ordered = /\d/.test(item[1] ?? '');
      const last = out.at(-1);
      const inner = inline(item[2] ?? '');
      if (last?.kind === 'list' && last.ordered === ordered && (lines[i - 1] ?? '').trim()) last.items.push(inner);
      else out.push({ kind: 'list', ordered, items: [inner] });
    } else if (line.startsWith('>')) {
      flush();
      out.push({ kind: 'quote', inner: inline(line.replace(/^>\s?/, '')) });
    } else held.push(line.trim());
  }
  flush();
  return out;
}
