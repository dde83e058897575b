-- What acl's module says of consumers' groups.
return {
  get_consumer_groups = function(id)
    return require("kongtest.entities").groups(id)
  end,
}
