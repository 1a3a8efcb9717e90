/** What a call costs the processor. */
import type { Attention } from "@fa/core";

/** Engines compile hot loops again after thousands of calls. */
const ON_DEVICE = { warmMs: 300, calls: 200, samples: 15 };
/** A processor that plays the GPU as well is slow, and shows nothing but that it works. */
const IN_SOFTWARE = { warmMs: 0, calls: 10, samples: 3 };

/**
 * Milliseconds that a call takes on the processor: validated, planned and handed to the device, not waited for. One for each
 * sample; the device catches up in between.
 */
export async function costOf(fa: Attention, call: () => Promise<void>, software = false): Promise<number[]> {
  const { warmMs, calls, samples } = software ? IN_SOFTWARE : ON_DEVICE;
  const enqueue = async (): Promise<number> => {
    const start = performance.now();
    for (let n = 0; n < calls; n++) await call();
    const ms = performance.now() - start;
    await fa.sync();
    return ms / calls;
  };
  const warmUntil = performance.now() + warmMs;
  do await enqueue();
  while (performance.now() < warmUntil);
  const times: number[] = [];
  while (times.length < samples) times.push(await enqueue());
  return times;
}
