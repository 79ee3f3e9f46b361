-- Each connection pauses before its next request, for so many milliseconds as the first argument says; prints
-- what wrk counted, and the longest wait in milliseconds, as one line of JSON.
local pause = 0

function init(arguments)
    pause = tonumber(arguments[1])
end

function delay()
    return pause
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '{"requests":%d,"seconds":%f,"longest":%f,"failed":[%d,%d,%d,%d,%d]}\n',
        summary.requests, summary.duration / 1e6, latency.max / 1e3,
        errors.connect, errors.read, errors.write, errors.timeout, errors.status
    ))
end
