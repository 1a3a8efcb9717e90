import { styleText } from "node:util";
import { SingleBar } from "cli-progress";
import type { TableStyle } from "./table.ts";

/** Where the app writes, and whether people watch it being written. */
export interface Terminal {
  readonly isTTY: boolean;
  /** Results: one or more whole lines. */
  print(text: string): void;
  /** Complaints, on the other stream. */
  complain(text: string): void;
}

export const TERMINAL: Terminal = {
  isTTY: process.stdout.isTTY,
  print: (text) => void process.stdout.write(`${text}\n`),
  complain: (text) => void process.stderr.write(`${text}\n`),
};

/** Colours where people watch. */
export function styleOf({ isTTY }: Terminal): TableStyle {
  if (!isTTY) return {};
  return { alarm: (text) => styleText(["red", "bold"], text), quiet: (text) => styleText("dim", text) };
}

/** Tells how far a long run is: a bar that vanishes on a terminal, a line a step elsewhere. */
export interface Progress {
  begin(title: string): void;
  end(line: string): void;
  /** Clears the bar and gives the cursor back. Calling it again does nothing. */
  stop(): void;
}

/** "about 40 s left", as long as steps take what they have taken so far; nothing is known before the first is done. */
export function timeLeft(elapsedMs: number, done: number, total: number): string {
  if (done === 0 || done === total) return "";
  const seconds = Math.ceil(((elapsedMs / done) * (total - done)) / 1000);
  return seconds < 100 ? `about ${seconds} s left` : `about ${Math.ceil(seconds / 60)} min left`;
}

export function progress(terminal: Terminal, total: number): Progress {
  if (!terminal.isTTY) return { begin() {}, end: (line) => terminal.print(line), stop() {} };
  const bar = new SingleBar({
    format: "{bar} {value}/{total}  {title}  {left}",
    stream: process.stdout,
    barsize: 30,
    barCompleteChar: "█",
    barIncompleteChar: "░",
    hideCursor: true,
    clearOnComplete: true,
  });
  const start = performance.now();
  let done = 0;
  bar.start(total, 0, { title: "", left: "" });
  return {
    begin: (title) => {
      bar.update({ title, left: timeLeft(performance.now() - start, done, total) });
      bar.render();
    },
    end: () => bar.update(++done),
    stop: () => bar.stop(),
  };
}
