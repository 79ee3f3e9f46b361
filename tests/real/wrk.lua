-- Prints what wrk counted as one line of JSON.
function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '{"requests":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}\n',
        summary.requests, errors.connect, errors.read, errors.write, errors.timeout, errors.status
    ))
end
