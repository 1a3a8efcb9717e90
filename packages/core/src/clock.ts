/**
 * The least step of `performance.now()` among some, in milliseconds: 5e-5 in Node, up to 0.1 to 1 in browsers, and more where they
 * resist fingerprinting. What lasts only a few steps cannot be timed. Takes as long as its steps.
 */
export function clockGrainMs(steps: number = 3): number {
  let grain = Infinity;
  let last = performance.now();
  // The first step began before anyone looked.
  for (let n = 0; n <= steps;) {
    const now = performance.now();
    if (now === last) continue;
    if (n > 0) grain = Math.min(grain, now - last);
    last = now;
    n++;
  }
  return grain;
}
