/**
 * ONNX models of one operator, once or in a chain, written by hand: protobuf is a list of (field number, wire type,
 * value), and such a model needs a dozen of its fields.
 * @see https://github.com/onnx/onnx/blob/main/onnx/onnx.proto for the field numbers
 */

/** ONNX's numbers for element types. */
const ELEMENT_TYPES = { float32: 1, int32: 6, float16: 10 } as const;
export type ElementType = keyof typeof ELEMENT_TYPES;

export interface OneOperator {
  readonly operator: string;
  /** "" for ONNX's own operators, "com.microsoft" for onnxruntime's. */
  readonly domain: string;
  /** Version of the operator set of the domain. */
  readonly opset: number;
  readonly attributes: Readonly<Record<string, number>>;
  /** Shapes of tensors by name, in the operator's order. */
  readonly inputs: Readonly<Record<string, readonly number[]>>;
  readonly outputs: Readonly<Record<string, readonly number[]>>;
  /** Of each input and output; float32 unless given. */
  readonly types?: Readonly<Record<string, ElementType>>;
  /** So many nodes, each one's first output the first input of the next. One unless given. */
  readonly chain?: number;
}

/** The bytes of the model. */
export function onnxModel(model: OneOperator): Uint8Array {
  const { operator, domain, opset, attributes, inputs, outputs, types = {}, chain = 1 } = model;
  const tensor = ([name, shape]: [string, readonly number[]]): number[][] =>
    valueInfo(name, ELEMENT_TYPES[types[name] ?? "float32"], shape);
  const [first, ...others] = Object.keys(inputs);
  const last = chain - 1;
  const node = (n: number): number[][] => [
    ...[n === 0 ? first : `${Object.keys(outputs)[0]}${n - 1}`, ...others].map((name) => text(1, name)),
    // Only those of the last node are outputs of the graph.
    ...Object.keys(outputs).map((name) => text(2, n === last ? name : `${name}${n}`)),
    text(4, operator),
    ...Object.entries(attributes).map(([name, value]) => message(5, attribute(name, value))),
    text(7, domain),
  ];
  const graph = [
    ...Array.from({ length: chain }, (_, n) => message(1, node(n))),
    text(2, operator),
    ...Object.entries(inputs).map((one) => message(11, tensor(one))),
    ...Object.entries(outputs).map((one) => message(12, tensor(one))),
  ];
  const imported = (name: string, version: number): number[] => message(8, [text(1, name), whole(2, version)]);
  const fields = [
    whole(1, 10), // ir_version: that of ONNX 1.16, which every runtime with opset 23 reads
    message(7, graph),
    imported(domain, opset),
    // A model without ONNX's own operator set is refused, whatever its nodes.
    ...(domain === "" ? [] : [imported("", 21)]),
  ];
  return Uint8Array.from(fields.flat());
}

const INT_ATTRIBUTE = 2;

function attribute(name: string, value: number): number[][] {
  return [text(1, name), whole(3, value), whole(20, INT_ATTRIBUTE)];
}

function valueInfo(name: string, elementType: number, shape: readonly number[]): number[][] {
  const dimensions = shape.map((size) => message(1, [whole(1, size)]));
  return [text(1, name), message(2, [message(1, [whole(1, elementType), message(2, dimensions)])])];
}

// ---- the wire format: a field is a key (number, wire type) and its value

const VARINT = 0;
const LENGTH_DELIMITED = 2;

function whole(field: number, value: number): number[] {
  return [...varint(field * 8 + VARINT), ...varint(value)];
}

function text(field: number, value: string): number[] {
  return delimited(field, [...new TextEncoder().encode(value)]);
}

function message(field: number, fields: readonly (readonly number[])[]): number[] {
  return delimited(field, fields.flat());
}

function delimited(field: number, bytes: readonly number[]): number[] {
  return [...varint(field * 8 + LENGTH_DELIMITED), ...varint(bytes.length), ...bytes];
}

/** Seven bits a byte, the least significant first, the top bit set on all but the last. */
function varint(value: number): number[] {
  return value < 128 ? [value] : [(value % 128) + 128, ...varint(Math.floor(value / 128))];
}
