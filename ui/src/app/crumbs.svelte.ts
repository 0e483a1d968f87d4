// Where this page is, for the bar and the window's title: a page sets it while it is shown.

export interface Crumb {
  text: string;
  href?: string;
}

class Crumbs {
  all: Crumb[] = $state.raw([]);
}

export const crumbs = new Crumbs();

/** Call while a page initializes. */
export function setCrumbs(of: () => Crumb[]): void {
  $effect(() => {
    const list = of();
    crumbs.all = list;
    document.title = [...list.map((crumb) => crumb.text).reverse(), 'monoscope'].join(' · ');
  });
}
