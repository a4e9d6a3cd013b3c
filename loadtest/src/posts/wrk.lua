-- Every request is the same, so that wrk makes it once. The figures of `done` are exact where those
-- that wrk prints are rounded.
wrk.method = "POST"
wrk.headers["Authorization"] = "Bearer @TOKEN@"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '@BODY@'

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '@MARK@{"duration_us":%d,"requests":%d,"refused":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,' ..
    '"latency_us":[%d,%d,%d,%d]}\n',
    summary.duration, summary.requests, errors.status, errors.connect, errors.read, errors.write,
    errors.timeout, latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end
