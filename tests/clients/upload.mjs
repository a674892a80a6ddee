// Uploads one file with tus-js-client, as its documentation says, and tells on standard output what happened.
//
// The plan is JSON on standard input:
//   file          what to send
//   source        "file" (default), "buffer", or "stream" (a stream that knows neither name nor length)
//   options       given to `tus.Upload` as they are (endpoint, chunkSize, metadata, headers, …)
//   urlStorage    a file where upload URLs are kept
//   resume        true: go on with the newest upload of this file that urlStorage knows; fails if there is none
//   marks         [{at, does, answered}]: what the user does once `at` bytes of content have been handed to sockets, all
//                 requests counted: "pause" (abort, then start again), "terminate" (abort with deletion), "die" (SIGKILL);
//                 not before so many chunks were `answered` (default 0)
//
// Each line of the output is JSON: {event: "request" | "answer" | "broken" | "marked" | "url" | "terminated" | "done" |
// "error", …}. The exit code is 0 after "done" and "terminated".
import { createReadStream, readFileSync } from 'node:fs'
import { PassThrough, Readable, Transform } from 'node:stream'
import { DefaultHttpStack, FileUrlStorage, Upload } from 'tus-js-client'

const plan = JSON.parse(readFileSync(0, 'utf8'))
const marks = plan.marks ?? []
const open = new Set()
const urlStorage = plan.urlStorage ? new FileUrlStorage(plan.urlStorage) : null
let sent = 0
let located = 0 // how many uploads have told where they are since the start
let chunks = 0 // how many were acknowledged
let due = false // a mark was reached
let acting = false // ... and what it says is being done
let upload

const say = (event, about = {}) => process.stdout.write(`${JSON.stringify({ event, ...about })}\n`)

function openSource() {
  if (plan.source === 'buffer') return readFileSync(plan.file)
  const file = createReadStream(plan.file)
  return plan.source === 'stream' ? file.pipe(new PassThrough()) : file
}

// Called with every piece of a body; resolves when it may go on its way. All bodies wait while the user does something,
// and their requests are gone afterwards.
async function passing(bytes) {
  sent += bytes
  const mine = !due && marks.length > 0 && sent >= marks[0].at
  if (mine) await act(marks.shift())
  if (mine || acting) await new Promise(() => {})
}

async function act({ does, answered = 0 }) {
  due = true
  // The client forgets an upload whose address it was waiting for when it was stopped. No user is that quick.
  const parts = plan.options.parallelUploads ?? 1
  while (located < parts || chunks < answered || !(await isStored())) await new Promise(setImmediate)
  acting = true
  say('marked', { does, sent })
  if (does === 'die') process.kill(process.pid, 'SIGKILL')
  await (does === 'pause' ? pause() : terminate())
  due = acting = false
}

async function isStored() {
  return urlStorage === null || (await urlStorage.findAllUploads()).length > 0
}

async function pause() {
  await upload.abort()
  // Nor does a user go on before the sockets are closed: what breaks after start() counts as a failure.
  await Promise.all([...open].map((request) => new Promise((closed) => request.once('close', closed))))
  located = 0
  upload.start()
}

async function terminate() {
  await upload.abort(true)
  say('terminated', { url: upload.url })
}

// The client's own HTTP stack; its documentation's extension point for watching requests.
class WatchedStack extends DefaultHttpStack {
  createRequest(method, url) {
    const request = super.createRequest(method, url)
    const send = request.send.bind(request)
    request.send = async (body = null) => {
      let piece = body
      if (body instanceof Readable) {
        piece = body.pipe(
          new Transform({
            transform(chunk, _encoding, done) {
              passing(chunk.length).then(() => done(null, chunk))
            },
          }),
        )
        piece.size = body.size
      }
      const about = { method, url, body: body?.size ?? 0 }
      say('request', { ...about, offset: request.getHeader('Upload-Offset') })
      const answered = send(piece)
      const underlying = request.getUnderlyingObject()
      open.add(underlying)
      underlying.once('close', () => open.delete(underlying))
      try {
        const answer = await answered
        say('answer', { ...about, ...told(answer) })
        if (['POST', 'HEAD'].includes(method) && body === null && answer.getStatus() < 300) located += 1
        if (method === 'PATCH' && answer.getStatus() < 300) chunks += 1
        return answer
      } catch (error) {
        say('broken', { ...about, code: error.code ?? String(error) })
        throw error
      }
    }
    return request
  }
}

const told = (answer) => ({
  status: answer.getStatus(),
  headers: answer.getUnderlyingObject().headers,
  text: answer.getBody(),
})

upload = new Upload(openSource(), {
  httpStack: new WatchedStack(),
  ...(urlStorage === null ? {} : { urlStorage }),
  ...plan.options,
  onUploadUrlAvailable: () => say('url', { url: upload.url }),
  onSuccess: ({ lastResponse }) => say('done', { url: upload.url, ...told(lastResponse) }),
  onError(error) {
    say('error', { message: error.message, status: error.originalResponse?.getStatus() ?? null })
    process.exitCode = 1
  },
})

if (plan.resume) {
  const known = await upload.findPreviousUploads()
  if (known.length === 0) throw new Error('urlStorage knows no upload of this file')
  upload.resumeFromPreviousUpload(known.at(-1))
}
upload.start()
