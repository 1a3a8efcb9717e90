import type { ComponentChildren, VNode } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

interface ButtonProps {
  readonly children: ComponentChildren;
  /** Nothing to do now. It keeps the focus, which `disabled` would lose in the middle of a walk by keyboard. */
  readonly off?: boolean | undefined;
  /** The one that a part is about. */
  readonly main?: boolean | undefined;
  readonly pressed?: boolean | undefined;
  /** Left out, it submits its form. */
  readonly onClick?: (() => void) | undefined;
}

export function Button({ children, off = false, main = false, pressed, onClick }: ButtonProps): VNode {
  return (
    <button
      type={onClick ? "button" : "submit"}
      class={main ? "main" : ""}
      aria-disabled={off}
      aria-pressed={pressed}
      onClick={(event) => {
        if (off) event.preventDefault();
        else onClick?.();
      }}
    >
      {children}
    </button>
  );
}

/** A place for something wide, which scrolls by itself so that the page never has to; by keyboard too, where it does. */
export function Scrolls({ label, children }: { readonly label: string; readonly children: ComponentChildren }): VNode {
  const place = useRef<HTMLDivElement>(null);
  const [isWide, setWide] = useState(false);
  useEffect(() => {
    const element = place.current!;
    const look = (): void => setWide(element.scrollWidth > element.clientWidth);
    const watch = new ResizeObserver(look);
    watch.observe(element);
    watch.observe(element.firstElementChild!);
    return () => watch.disconnect();
  }, []);
  return (
    <div ref={place} class="scrolls" role="region" aria-label={label} tabIndex={isWide ? 0 : undefined}>
      {children}
    </div>
  );
}

interface PickProps {
  readonly title: string;
  readonly value: number;
  readonly of: readonly number[];
  readonly set: (value: number) => void;
  /** What -1 is called. */
  readonly unbounded?: string | undefined;
}

/** A whole number from 1, or NaN while there is none in the field. */
export function Count({ title, value, max, off, set }: CountProps): VNode {
  return (
    <label>
      {title}{" "}
      <input
        type="number"
        min={1}
        max={max}
        required
        disabled={off}
        value={Number.isNaN(value) ? "" : value}
        onInput={({ currentTarget }) => set(currentTarget.valueAsNumber)}
      />
    </label>
  );
}

interface CountProps {
  readonly title: string;
  readonly value: number;
  readonly max: number;
  readonly off?: boolean | undefined;
  readonly set: (value: number) => void;
}

/** One of some numbers. */
export function Pick({ title, value, of, set, unbounded }: PickProps): VNode {
  return (
    <label>
      {title}{" "}
      <select value={value} onChange={({ currentTarget }) => set(Number(currentTarget.value))}>
        {of.map((n) => (
          <option key={n} value={n}>
            {n === -1 ? unbounded : n}
          </option>
        ))}
      </select>
    </label>
  );
}
