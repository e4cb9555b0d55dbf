-- Turns the errors of OpenAI's paths into OpenAI's error object.
-- inference sends it ready-made; an error from elsewhere (validation, a drain) is rewritten from google.rpc.Status.

local function json_string(body, name)
  local _, start = body:find('"' .. name .. '":%s*"')
  if start == nil then
    return nil
  end
  local stop = start + 1
  while true do
    local byte = body:sub(stop, stop)
    if byte == "" then
      return nil
    elseif byte == '"' then
      return body:sub(start + 1, stop - 1)
    elseif byte == "\\" then
      stop = stop + 1
    end
    stop = stop + 1
  end
end

function envoy_on_response(handle)
  local status = tonumber(handle:headers():get(":status"))
  if status == nil or status < 400 then
    return
  end
  local told = handle:headers():get("x-openai-error")
  -- gRPC has one code for what HTTP tells apart.
  if told ~= nil then
    if told:find('"code": "request_too_large"', 1, true) ~= nil then
      handle:headers():replace(":status", "413")
    elseif told:find('"code": "timeout"', 1, true) ~= nil then
      handle:headers():replace(":status", "408")
    end
  end
  handle:headers():remove("x-openai-error")
  -- Waits for the whole body; what was taken from the handle before is void afterwards.
  local body = handle:body(true)
  if told == nil then
    local text = ""
    if body:length() > 0 then
      text = body:getBytes(0, body:length())
    end
    if text:find('^%s*{%s*"error"') ~= nil then
      return
    end
    local kind = status >= 500 and "server_error" or "invalid_request_error"
    local reason = json_string(text, "reason")
    told = '{"error":{"message":"' .. (json_string(text, "message") or "the call failed")
      .. '","type":"' .. kind .. '","param":null,"code":'
      .. (reason and '"' .. reason:lower() .. '"' or "null") .. "}}"
  end
  local length = body:setBytes(told)
  handle:headers():replace("content-type", "application/json")
  handle:headers():replace("content-length", tostring(length))
end
