-- One token entry: into the stream, and only then to those who listen. A write that Redis refuses (a newer attempt, no
-- memory left, a stream that is gone) is announced to nobody.
-- KEYS[1] stream and channel; ARGV: id of the entry, data, token ids, id of the entry before it that carries data.
local id, data, token_ids, previous = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local written = redis.call('XADD', KEYS[1], 'NOMKSTREAM', id, 't', 'token', 'd', data, 'i', token_ids)
if written and data ~= '' then
  redis.call('PUBLISH', KEYS[1], previous .. ' ' .. id .. ' token ' .. data)
end
return written
