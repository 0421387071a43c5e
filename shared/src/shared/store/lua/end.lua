-- end: exactly one ending. With an attempt, only by the worker that holds it; with '' by the janitor, from any state.
-- A worker names the entry that it wrote last: when Redis has lost that, the task ends as data_lost. With state '' it
-- ends only then.
local attempt, state, outcome_type, outcome, result = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local retention_ms, conversation_key, conversation, conversation_ms = tonumber(ARGV[8]), ARGV[9], ARGV[10], ARGV[11]
local written = ARGV[12]
local r = redis.call('HMGET', task, 'state', 'attempt', 'wire')
if not r[1] then return {'missing'} end
if r[1] == 'ended' then return {'ended', r[3]} end
if attempt ~= '' and (r[1] ~= 'running' or r[2] ~= attempt) then return {'lost'} end
if written ~= '' and has_lost(written) then
  finish_lost(retention_ms)
  return {'ended', 'FAILURE'}
end
if state == '' then return {'lost'} end
finish(state, outcome_type, outcome, result, retention_ms)
if conversation_key ~= '' then
  redis.call('SET', key('conversation', conversation_key), conversation, 'PX', conversation_ms)
end
return {'done'}
