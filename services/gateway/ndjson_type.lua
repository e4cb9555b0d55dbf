-- The transcoder calls newline-delimited JSON application/json, which it is not.

function envoy_on_response(handle)
  if handle:headers():get(":status") == "200" then
    handle:headers():replace("content-type", "application/x-ndjson")
  end
end
