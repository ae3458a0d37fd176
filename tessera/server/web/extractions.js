// Talks to /v1/extractions and /v1/files. Errors are `ApiError`s, one sentence each, with the server's code.

import { ApiError, headersFor, request } from "./api.js";

const IMAGES_KEPT = 24; // pages whose images stay in memory
const JSON_TYPE = { "Content-Type": "application/json" };

export class Server {
  constructor(key) {
    this.key = key;
    this.pages = new Map(); // address -> promise of {src, width, height}, the latest used last; failures are not kept
  }

  async ask(address, options = {}) {
    return request(address, { ...options, headers: { ...headersFor(this.key), ...options.headers } });
  }

  json = async (address, options) => (await this.ask(address, options)).json();
  post = (address, body) => this.ask(address, { method: "POST", headers: JSON_TYPE, body: JSON.stringify(body) });

  presets = async () => (await this.json("v1/presets")).data;
  jobs = async () => (await this.json("v1/extractions?limit=20")).data;
  job = (id) => this.json(`v1/extractions/${id}`);
  create = async (body) => (await this.post("v1/extractions", body)).json();
  cancel = (id) => this.json(`v1/extractions/${id}/cancel`, { method: "POST" });
  delete = (id) => this.ask(`v1/extractions/${id}`, { method: "DELETE" });
  deleteFile = (id) => this.ask(`v1/files/${id}`, { method: "DELETE" });
  records = (id, after) => this.json(`v1/extractions/${id}/records?limit=100&after=${after}`);

  async upload(file) {
    const form = new FormData();
    form.append("purpose", "user_data");
    form.append("file", file, file.name);
    return (await this.json("v1/files", { method: "POST", body: form })).id;
  }

  async table(id, format, corrections) {
    return (await this.post(`v1/extractions/${id}/table`, { format, corrections })).blob();
  }

  /** The image of a page, or `{why}` where it cannot be had. */
  page(id, name, number) {
    const address = `v1/extractions/${id}/page?${new URLSearchParams({ document: name, number })}`;
    const found = this.pages.get(address) ?? this.ask(address).then(imageOf).catch((error) => {
      this.pages.delete(address);
      return { why: error instanceof ApiError ? error.message : null };
    });
    this.pages.delete(address);
    this.pages.set(address, found);
    if (this.pages.size > IMAGES_KEPT) {
      const [oldest, image] = this.pages.entries().next().value;
      this.pages.delete(oldest);
      image.then((given) => given.src && URL.revokeObjectURL(given.src));
    }
    return found;
  }
}

async function imageOf(response) {
  const src = URL.createObjectURL(await response.blob());
  const image = new Image();
  image.src = src;
  await image.decode();
  return { src, width: image.naturalWidth, height: image.naturalHeight };
}
