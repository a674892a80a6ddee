// What Uppy needs of a browser, over node's own fetch: XMLHttpRequest, and the cookie that a browser sends to its own site.

import { File } from 'node:buffer'

/** Every request that was made, in order, for the test to look at: method, URL, status. */
export const seen = []

/** Put a page of the site `url` around this process, signed in by `cookie`. */
export function openPage(url, cookie) {
  const plain = globalThis.fetch

  globalThis.fetch = async (address, options = {}) => {
    const headers = new Headers(options.headers)
    if (String(address).startsWith(`${url}/`)) {
      headers.set('cookie', cookie)
      headers.set('sec-fetch-site', 'same-origin')
    }
    const answer = await plain(address, { ...options, headers })
    seen.push({ method: options.method ?? 'GET', url: String(address), status: answer.status })
    return answer
  }
  globalThis.XMLHttpRequest = XMLHttpRequest
  globalThis.File ??= File // node 18 has it in its module only
}

class XMLHttpRequest {
  upload = {}
  status = 0
  statusText = ''
  #headers = new Headers()
  #answer = new Headers()
  #aborter = new AbortController()

  open(method, url) {
    this.method = method
    this.url = url
  }

  setRequestHeader(name, value) {
    this.#headers.append(name, value)
  }

  getResponseHeader(name) {
    return this.#answer.get(name)
  }

  abort() {
    this.#aborter.abort()
  }

  send(body) {
    const options = { method: this.method, headers: this.#headers, body, signal: this.#aborter.signal }
    this.#finish(globalThis.fetch(this.url, options), body?.size ?? 0)
  }

  async #finish(request, total) {
    try {
      const answer = await request
      this.responseText = await answer.text()
      this.status = answer.status
      this.statusText = answer.statusText
      this.#answer = answer.headers
    } catch {
      if (!this.#aborter.signal.aborted) this.onerror?.()
      return
    }
    this.upload.onprogress?.({ lengthComputable: true, loaded: total, total })
    this.onload?.()
  }
}
