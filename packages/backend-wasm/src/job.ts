/**
 * A job: the calls of kernels that the threads of an instance make for one plan, as numbers in shared memory. This file and
 * worker.ts are the whole program of a worker and import nothing else.
 *
 * A job is a list of chains, a chain a list of calls. Threads take chains in order, the next free one each time, and make
 * the calls of a chain in order. A chain may wait until a number of chains before it are finished, and a call until another
 * chain, which was taken before, has come so far: so nobody waits for what nobody does.
 *
 * A kernel's struct of parameters is filled for each call in the memory of the thread that makes it: a struct of the job,
 * its pointers to scratch moved to the scratch of the thread, its last words replaced by those of the call.
 */

/** Plain data: it is posted to workers as it is. */
export interface Job {
  /** Control words (`CONTROL`), then `progress`, `chainTable`, `calls` and `structs`. Shared where other threads help. */
  readonly words: Int32Array;
  readonly chains: number;
  /** Where each part begins in `words`. */
  readonly progress: number;
  readonly chainTable: number;
  readonly calls: number;
  readonly structs: number;
  readonly structWords: number;
  /** How many words of a call go to the end of the struct. */
  readonly tailWords: number;
  /** The words of a struct that are addresses relative to a thread's scratch. */
  readonly moved: readonly number[];
  /** Names of the kernels by the numbers that calls use. */
  readonly kernels: readonly string[];
}

/** Addresses of what belongs to one thread for the time of a job. */
export interface ThreadMemory {
  /** 0 for the calling thread. */
  readonly index: number;
  /** Where its struct of parameters is. */
  readonly params: number;
  readonly scratch: number;
  /** The end of its stack, which grows down. The calling thread has the module's own. */
  readonly stackTop: number;
}

export interface Thread extends ThreadMemory {
  readonly functions: Readonly<Record<string, (...args: number[]) => unknown>>;
  readonly memory: WebAssembly.Memory;
}

/** Each on a cache line of its own: all threads write the first two. */
export const CONTROL = {
  /** The next chain to take. */
  next: 0,
  /** How many chains are finished. */
  finished: 16,
  /** 1 once something has failed: no call is begun any more. */
  aborted: 32,
  /** One word a thread: 1 while it may touch the memory of the job. */
  inside: 48,
} as const;
export const MAX_THREADS = 16;
export const CONTROL_WORDS: number = CONTROL.inside + MAX_THREADS;

/** A chain: its first call, the call after its last, and how many chains must be finished before. */
export const CHAIN_WORDS = 3;

/** A call: kernel, struct (-1: the words are its arguments), the chain it waits for (-1: none), how far, and words. */
export const CALL_WORDS = 10;
export const CALL_TAIL = 4;

/** What a thread has to wait for: that the word is not `value` any more. */
export interface Wait {
  readonly index: number;
  readonly value: number;
}

/** Takes chains until none is left or the job is aborted. Yields after each call, and what it waits for, repeatedly. */
export function* work(job: Job, thread: Thread): Generator<Wait | undefined, void> {
  const { words } = job;
  for (;;) {
    const chain = Atomics.add(words, CONTROL.next, 1);
    if (chain >= job.chains) return;
    const at = job.chainTable + chain * CHAIN_WORDS;
    if (!(yield* until(words, CONTROL.finished, words[at + 2]))) return;
    for (let call = words[at]; call < words[at + 1]; call++) {
      const callAt = job.calls + call * CALL_WORDS;
      const after = words[callAt + 2];
      if (after >= 0 && !(yield* until(words, job.progress + after, words[callAt + 3]))) return;
      if (Atomics.load(words, CONTROL.aborted) === 1) return;
      callKernel(job, thread, callAt);
      advance(words, job.progress + chain);
      yield;
    }
    advance(words, CONTROL.finished);
  }
}

/** Whether the word has reached the value, or else the job is aborted. */
function* until(words: Int32Array, index: number, least: number): Generator<Wait, boolean> {
  for (;;) {
    const value = Atomics.load(words, index);
    if (value >= least) return true;
    if (Atomics.load(words, CONTROL.aborted) === 1) return false;
    yield { index, value };
  }
}

function advance(words: Int32Array, index: number): void {
  Atomics.add(words, index, 1);
  Atomics.notify(words, index);
}

function callKernel({ words, structs, structWords, tailWords, moved, kernels }: Job, thread: Thread, at: number): void {
  const kernel = thread.functions[kernels[words[at]]];
  const struct = words[at + 1];
  if (struct < 0) {
    kernel(...words.subarray(at + CALL_TAIL, at + CALL_WORDS));
    return;
  }
  const params = wordsAt(thread.memory, thread.params, structWords);
  params.set(words.subarray(structs + struct * structWords, structs + (struct + 1) * structWords));
  for (const index of moved) params[index] += thread.scratch;
  params.set(words.subarray(at + CALL_TAIL, at + CALL_TAIL + tailWords), structWords - tailWords);
  kernel(thread.params);
}

/** A view on the memory as it is: another thread may have made it grow. */
function wordsAt(memory: WebAssembly.Memory, address: number, length: number): Int32Array {
  if (address + length * 4 > memory.buffer.byteLength) memory.grow(0); // an engine may not have told this thread yet
  return new Int32Array(memory.buffer, address, length);
}
