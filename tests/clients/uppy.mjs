// One file through Uppy, as a page of Depot's would send it. Reads a plan from standard input, prints one JSON line.
//
// plan: { url, cookie, path, name, meta, multipart, sayLength?, partBytes?, pauseAfter?, cancelAfter? }
//   sayLength   the page puts the file's size (and part length) into the metadata, so that the parts' lengths are signed
//   pauseAfter  pause and go on when this many parts are there; cancelAfter: take the file out of Uppy instead
// report: { result: 'complete' | 'failed' | 'cancelled', name, body, error, parts, seen }

import { readFile } from 'node:fs/promises'
import { File } from 'node:buffer'
import Uppy from '@uppy/core'
import AwsS3 from '@uppy/aws-s3'
import { openPage, seen } from './uppy_browser.mjs'

const read = []
for await (const chunk of process.stdin) read.push(chunk)
const plan = JSON.parse(Buffer.concat(read).toString())
openPage(plan.url, plan.cookie)

const uppy = new Uppy()
uppy.use(AwsS3, {
  companionEndpoint: plan.url,
  shouldUseMultipart: plan.multipart,
  ...(plan.partBytes ? { getChunkSize: () => plan.partBytes } : {}),
})

const data = new File([await readFile(plan.path)], plan.name, { type: 'text/csv' })
const id = uppy.addFile({ name: plan.name, type: 'text/csv', data, meta: plan.meta })
if (plan.sayLength) {
  uppy.setFileMeta(id, { size: data.size, ...(plan.partBytes ? { part_bytes: plan.partBytes } : {}) })
}

const parts = []
uppy.on('s3-multipart:part-uploaded', (file, part) => {
  parts.push(part)
  if (parts.length === plan.pauseAfter) {
    uppy.pauseAll()
    setTimeout(() => uppy.resumeAll())
  }
  if (parts.length === plan.cancelAfter) uppy.removeFile(id)
})

const outcome = await uppy.upload()
const [good] = outcome?.successful ?? []
const [bad] = outcome?.failed ?? []
// After a cancellation Uppy tells the server and does not wait for the answer; the process ends when it came.
process.on('exit', () => {
  const report = good
    ? { result: 'complete', body: good.response.body }
    : bad
      ? { result: 'failed', error: String(bad.error) }
      : { result: 'cancelled' }
  process.stdout.write(`${JSON.stringify({ ...report, name: plan.name, parts, seen })}\n`)
})
