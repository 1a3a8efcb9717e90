import { refuse, show, Tensor, type DType } from "@fa/core";

/** Something that holds memory until it is told to let go. */
export interface Disposes {
  dispose(): void;
}

/** Takes over a resource, to dispose of it when the scope ends. */
export type Own = <R extends Disposes>(resource: R) => R;

/**
 * Runs a body and disposes of all that it came to own, whether it returns or throws. What must outlive the body leaves it as
 * a view of its own.
 */
export async function scoped<R>(body: (own: Own) => Promise<R>): Promise<R> {
  const owned: Disposes[] = [];
  try {
    return await body((resource) => {
      owned.push(resource);
      return resource;
    });
  } finally {
    for (const resource of owned) resource.dispose();
  }
}

/** The same memory under a tensor that is disposed on its own. */
export function view(tensor: Tensor): Tensor {
  return tensor.reshape(tensor.shape);
}

/** What a tensor given to the module has to be: `shape` has names where any size will do. */
export interface Expected {
  /** A tensor of the same instance. */
  readonly sibling: Tensor;
  readonly shape: readonly (number | string)[];
  readonly dtype: DType;
}

/** @throws FaError FA_TENSOR, FA_DISPOSED, FA_SHAPE or FA_DTYPE, naming the argument and the rule it breaks */
export function checkTensor(
  where: string,
  name: string,
  tensor: unknown,
  { sibling, shape, dtype }: Expected,
): asserts tensor is Tensor {
  const argument = `${where}(${name})`;
  if (!(tensor instanceof Tensor)) {
    refuse("FA_TENSOR", {
      where: argument,
      rule: `${name} must be a tensor of the module's instance`,
      got: show(tensor),
      fix: "Make it with fa.tensor(data, { shape }).",
    });
  }
  if (Tensor.owner(tensor) !== Tensor.owner(sibling)) {
    refuse("FA_TENSOR", {
      where: argument,
      rule: `${name} must be a tensor of the module's instance`,
      got: "a tensor of another Attention",
      fix: "Read it with data() and make it anew with the tensor() of the instance that the module was made with.",
    });
  }
  if (tensor.disposed) {
    refuse("FA_DISPOSED", {
      where: argument,
      rule: `${name} must not be disposed`,
      got: `a disposed tensor ${show(tensor.shape)}`,
      fix: "Dispose tensors after their last use.",
    });
  }
  const fits = shape.every((size, axis) => typeof size === "string" || size === tensor.shape[axis]);
  if (!fits || tensor.shape.length !== shape.length) {
    refuse("FA_SHAPE", {
      where: argument,
      rule: `shape must be [${shape.join(", ")}]`,
      got: show(tensor.shape),
      fix: `Use ${name}.reshape(shape) if the elements are right.`,
    });
  }
  if (tensor.dtype !== dtype) {
    refuse("FA_DTYPE", {
      where: argument,
      rule: `dtype must be the module's, ${dtype}`,
      got: tensor.dtype,
      fix: `Use fa.cast(${name}, ${show(dtype)}), or make the module with another dtype.`,
    });
  }
}
