-- get: the record of a tenant's task. Another tenant's is missing, and takes as long as one that is.
if field('tenant') ~= args.tenant then return {} end
return redis.call('HGETALL', task)
