-- One token entry: into the stream, and only then to those who listen. A write that is refused is announced to nobody.
-- It must follow right behind the attempt's last entry. A stream that ends later belongs to somebody else, one that ends
-- earlier has lost entries (a failover to a replica that had not received them), one that is gone has lost all.
-- KEYS[1] stream and channel; ARGV: id of the entry, data, token ids, id of the entry before it that carries data, id of
-- the entry before it, log-probabilities that are still to be told. Answers the id, or nothing when it is refused.
local id, data, token_ids, previous, before = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if redis.call('TYPE', KEYS[1]).ok ~= 'stream' then return false end -- gone, or somebody has put something else there
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not newest then return false end
if newest[1] == id then return id end -- written before, and the reply was lost
if newest[1] ~= before then return false end
if ARGV[6] ~= '' then
  redis.call('XADD', KEYS[1], id, 't', 'token', 'd', data, 'i', token_ids, 'l', ARGV[6])
else
  redis.call('XADD', KEYS[1], id, 't', 'token', 'd', data, 'i', token_ids)
end
if data ~= '' then
  redis.call('PUBLISH', KEYS[1], previous .. ' ' .. id .. ' token ' .. data)
end
return id
