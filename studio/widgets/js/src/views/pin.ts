import { h } from "../dom";
import type { Store } from "../store";

/** Chooses the layer and the head that the views of the cache show. */
export class PinBar {
  readonly element: HTMLElement;
  private readonly layer = h("select", { "aria-label": "Layer" });
  private readonly head = h("select", { "aria-label": "Head" });
  private key = "";

  constructor(private readonly store: Store) {
    this.element = h("span", { class: "ls-pins" }, this.layer, this.head);
    const number = (select: HTMLSelectElement) => (select.value === "" ? null : Number(select.value));
    for (const select of [this.layer, this.head]) {
      select.addEventListener("change", () => store.pinTo({ layer: number(this.layer), head: number(this.head) }));
    }
  }

  update(): void {
    const reading = this.store.readings.latest;
    const key = JSON.stringify([reading?.layers, reading?.heads]);
    if (key !== this.key && reading !== undefined) {
      this.key = key;
      const option = (value: number | null, text: string) => h("option", { value: value === null ? "" : String(value) }, text);
      this.layer.replaceChildren(option(null, "all layers"), ...reading.layers.map((layer) => option(layer, `layer ${layer}`)));
      this.head.replaceChildren(option(null, "all heads"), ...Array.from({ length: reading.heads }, (_, head) => option(head, `head ${head}`)));
    }
    const { layer, head } = this.store.pin;
    this.layer.value = layer === null ? "" : String(layer);
    this.head.value = head === null ? "" : String(head);
  }
}
