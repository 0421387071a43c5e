-- A token entry for each of several tasks: into its stream, and only then to those who listen. One that is refused is
-- announced to nobody, and has nothing to do with the others.
-- It must follow right behind the attempt's last entry. A stream that ends later belongs to somebody else, one that ends
-- earlier has lost entries (a failover to a replica that had not received them), one that is gone has lost all.
-- KEYS of each the stream and channel; ARGV of each six: id of the entry, data, token ids, id of the entry before it that
-- carries data, id of the entry before it, log-probabilities that are still to be told. Answers of each: 1 when it is in
-- the stream, 0 when it is refused, or Redis's error.
local function append(key, id, data, token_ids, previous, before, logprobs)
  local newest = redis.pcall('XREVRANGE', key, '+', '-', 'COUNT', 1)
  if newest.err then -- somebody may have put something else there
    return string.find(newest.err, 'WRONGTYPE', 1, true) and 0 or newest
  end
  newest = newest[1]
  if not newest then return 0 end -- gone
  if newest[1] == id then return 1 end -- written before, and the reply was lost
  if newest[1] ~= before then return 0 end
  if logprobs ~= '' then
    redis.call('XADD', key, id, 't', 'token', 'd', data, 'i', token_ids, 'l', logprobs)
  else
    redis.call('XADD', key, id, 't', 'token', 'd', data, 'i', token_ids)
  end
  if data ~= '' then
    redis.call('PUBLISH', key, previous .. ' ' .. id .. ' token ' .. data)
  end
  return 1
end
local replies = {}
for at, key in ipairs(KEYS) do
  local ok, reply = pcall(append, key, unpack(ARGV, 6 * at - 5, 6 * at))
  if not ok and type(reply) ~= 'table' then reply = redis.error_reply(reply) end -- as Redis 6 raises it
  replies[at] = reply
end
return replies
