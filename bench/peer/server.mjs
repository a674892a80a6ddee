// The other side of the tus figures: @tus/server with @tus/s3-store, set up as their README says, onto the same store.
//
// Depot names the bucket and credentials in the environment, as for its own services tier, and the port in PEER_PORT. What
// is not named here is the packages' default: parts of 8 MiB, up to 60 of them in flight, the memory locker, no expiry.
// Node's default HTTP server ends a request after five minutes; a slow machine must not fail the run, so that is off.
import { createServer } from 'node:http'
import { S3Store } from '@tus/s3-store'
import { Server } from '@tus/server'

const { PEER_PORT, S3_ENDPOINT, S3_ACCESS_KEY, S3_SECRET_KEY, S3_REGION, S3_BUCKET } = process.env

const tus = new Server({
  path: '/uploads',
  datastore: new S3Store({
    s3ClientConfig: {
      bucket: S3_BUCKET,
      endpoint: S3_ENDPOINT,
      region: S3_REGION ?? 'us-east-1',
      forcePathStyle: true,
      credentials: { accessKeyId: S3_ACCESS_KEY, secretAccessKey: S3_SECRET_KEY },
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
    },
  }),
})

const server = createServer({ requestTimeout: 0 }, tus.handle.bind(tus))
server.listen(Number(PEER_PORT ?? 0), '127.0.0.1', () => console.log(`listening ${server.address().port}`))
